package replica

// pieceSize is how many entries one transaction deletes.
const pieceSize = 4096

// pieces deletes long ranges in several transactions, so that none holds up the entries that come
// meanwhile. A prefix goes from its low end, and a suffix from its high end: a crash between two
// pieces leaves no hole.
type pieces struct{ disk }

// DeleteRange deletes the entries from one index to another, which are a prefix or a suffix of the
// log.
func (p pieces) DeleteRange(from, to uint64) error {
	first, err := p.disk.FirstIndex()
	if err != nil {
		return err
	}
	last, err := p.disk.LastIndex()
	if err != nil {
		return err
	}
	// When a snapshot has emptied the log, raft deletes from index 0, which no log has.
	if from = max(from, first); first == 0 || from > to {
		return nil
	}
	suffix := to >= last
	for to-from >= pieceSize { // more than one piece
		if suffix {
			err = p.disk.DeleteRange(to-pieceSize+1, to)
			to -= pieceSize
		} else {
			err = p.disk.DeleteRange(from, from+pieceSize-1)
			from += pieceSize
		}
		if err != nil {
			return err
		}
	}
	return p.disk.DeleteRange(from, to)
}
