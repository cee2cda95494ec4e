package replica

// pieceSize is how many entries one transaction deletes.
const pieceSize = 4096

// pieces deletes long ranges in several transactions, so that none holds up the entries that come
// meanwhile. A prefix goes from its low end, and a suffix from its high end: a crash between two
// pieces leaves no hole.
type pieces struct{ disk }

// DeleteRange deletes the entries from min to max, which are a prefix or a suffix of the log.
func (p pieces) DeleteRange(min, max uint64) error {
	last, err := p.disk.LastIndex()
	if err != nil {
		return err
	}
	if min > max {
		return nil
	}
	suffix := max >= last
	for max-min >= pieceSize { // more than one piece
		if suffix {
			err = p.disk.DeleteRange(max-pieceSize+1, max)
			max -= pieceSize
		} else {
			err = p.disk.DeleteRange(min, min+pieceSize-1)
			min += pieceSize
		}
		if err != nil {
			return err
		}
	}
	return p.disk.DeleteRange(min, max)
}
