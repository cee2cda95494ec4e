//go:build unix

package cli

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// onResize calls f when the terminal has another size, until stop.
func onResize(f func()) (stop func()) {
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	done := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { // ends with stop
		for {
			select {
			case <-resized:
				f()
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(resized)
		close(done)
		work.Wait()
	}
}
