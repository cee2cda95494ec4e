package files

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// syncData is fdatasync(2), for which it asks the kernel with io_submit(2) (IOCB_CMD_FDSYNC, since Linux 4.18), and then
// waits as for the network. Who is in fdatasync itself keeps its processor until Go's monitor has taken it away, some tens
// of microseconds later at best (runtime/proc.go, retake), and meanwhile what is ready to run there waits: with two
// processors and raft's log synced two thousand times a second that is a sixth of all sends.
//
// Where the kernel does not do it for this file, or not for this process, f.SyncData does.
func syncData(f vfs.File) error {
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return f.SyncData()
	}
	a, err := getAIO()
	if err != nil {
		return f.SyncData()
	}
	if err := a.submit(fd); err != nil {
		a.put()
		return f.SyncData() // nothing has been asked for yet
	}
	result, err := a.wait()
	if err != nil { // the kernel may have told a, and nobody else, that the disk has failed
		a.close()
		return fmt.Errorf("wait for fdatasync: %w", err)
	}
	a.put()
	err = outcome(result)
	if errors.Is(err, errors.ErrUnsupported) {
		return f.SyncData()
	}
	return err
}

// outcome is what an event's result says: a negative one is an error number.
func outcome(result int64) error {
	switch e := unix.Errno(-result); {
	case result >= 0:
		return nil
	case e == unix.EINVAL: // says nothing of the disk
		return errors.ErrUnsupported
	default:
		return os.NewSyscallError("fdatasync", e)
	}
}

// aio is a context of the kernel's asynchronous I/O, for one call at a time, and the eventfd(2) which tells of its end.
type aio struct {
	context uintptr
	done    *os.File
	fd      int // of done
}

// maxAIO contexts are made, for as many logs of nodes that are synced at the same time in one process; where there are more,
// the others wait in fdatasync itself. A context is kept for the next call: io_destroy(2) waits for a grace period of the
// kernel's, some 40 ms. One that the kernel refuses counts, so that where it refuses all they are not asked for for ever.
const maxAIO = 16

var (
	idleAIO  = make(chan *aio, maxAIO)
	triedAIO atomic.Int64
)

var errNoAIO = errors.New("no context of asynchronous I/O is left")

func getAIO() (*aio, error) {
	select {
	case a := <-idleAIO:
		return a, nil
	default:
	}
	if triedAIO.Add(1) > maxAIO {
		triedAIO.Add(-1)
		return nil, errNoAIO
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	a := &aio{done: os.NewFile(uintptr(fd), "eventfd"), fd: fd}
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&a.context)), 0); e != 0 {
		return nil, errors.Join(e, a.done.Close())
	}
	return a, nil
}

func (a *aio) put() { idleAIO <- a }

// close is for one of which nobody knows what it is doing. It waits for a call that is under way.
func (a *aio) close() {
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, a.context, 0, 0)
	_ = a.done.Close()
	triedAIO.Add(-1)
}

// iocb and ioEvent are those of linux/aio_abi.h. Of an iocb's first fields only the sum of sizes matters here.
type iocb struct {
	_         [16]byte // aio_data, aio_key, aio_rw_flags
	opcode    uint16
	_         int16 // aio_reqprio
	fd        uint32
	_         [32]byte // aio_buf, aio_nbytes, aio_offset, aio_reserved2
	flags     uint32
	eventFile uint32
}

type ioEvent struct {
	_      [2]uint64 // data, obj
	result int64
	_      int64 // res2
}

const (
	opDataSync    = 3 // IOCB_CMD_FDSYNC
	tellEventFile = 1 // IOCB_FLAG_RESFD
)

func (a *aio) submit(fd uintptr) error {
	calls := [1]*iocb{{opcode: opDataSync, fd: uint32(fd), flags: tellEventFile, eventFile: uint32(a.fd)}}
	if _, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, a.context, 1, uintptr(unsafe.Pointer(&calls))); e != 0 {
		return e
	}
	return nil
}

func (a *aio) wait() (result int64, err error) {
	var count [8]byte
	if _, err := a.done.Read(count[:]); err != nil {
		return 0, err
	}
	var event ioEvent
	for {
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, a.context, 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
		switch {
		case e == unix.EINTR:
		case e != 0:
			return 0, e
		case n == 1:
			return event.result, nil
		default:
			return 0, errors.New("io_getevents: no event")
		}
	}
}
