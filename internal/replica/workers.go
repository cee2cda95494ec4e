package replica

// workers run short jobs on goroutines that stay for the next one: a new goroutine has a small stack, and gRPC and
// msgpack make it grow, which is a twentieth of what a lone message costs.
type workers struct {
	spawn func(func()) bool
	jobs  chan func()
	over  <-chan struct{} // ends those that have nothing to do
}

func newWorkers(spawn func(func()) bool, over <-chan struct{}) *workers {
	return &workers{spawn: spawn, jobs: make(chan func()), over: over}
}

// do runs a job, on a goroutine that waits for one or on a new one; it reports false when there are to be none.
func (w *workers) do(job func()) bool {
	select {
	case w.jobs <- job:
		return true
	default:
	}
	return w.spawn(func() {
		for {
			job()
			select {
			case job = <-w.jobs:
			case <-w.over:
				return
			}
		}
	})
}
