package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mib is how many bytes a MiB has.
const mib = 1 << 20

// usage is what the nodes, this process and this machine's disks have used so far.
type usage struct{ cpu, flushes float64 }

func (c *cluster) used() usage {
	u := usage{cpu: cpu(os.Getpid()), flushes: flushes()}
	for _, p := range c.procs {
		u.cpu += cpu(p.cmd.Process.Pid)
	}
	return u
}

// since puts into a result what was used meanwhile.
func (c *cluster) since(u usage, r *result, in time.Duration) {
	now := c.used()
	r.Extra["cpu_cores"] = (now.cpu - u.cpu) / in.Seconds()
	r.Extra["disk_flushes_per_s"] = (now.flushes - u.flushes) / in.Seconds()
	r.Extra["rss_mib"] = rss(os.Getpid())
	for _, p := range c.procs {
		r.Extra["rss_mib_node"] = max(r.Extra["rss_mib_node"], rss(p.cmd.Process.Pid))
	}
}

// cpu is how many seconds a process has worked; 0 where the system does not say.
func cpu(pid int) float64 {
	if pid == os.Getpid() {
		var r syscall.Rusage
		if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
			return 0
		}
		seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		return seconds(r.Utime) + seconds(r.Stime)
	}
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, after, _ := strings.Cut(string(b), ") ") // the name before may have spaces
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100 // USER_HZ, the same on every Linux
}

// rss is the resident memory of a process, in MiB; 0 where the system does not say.
func rss(pid int) float64 {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(f[1], 64)
	return pages * float64(os.Getpagesize()) / mib
}

// written is how many bytes a process has given the disks to write; 0 where the system does not say.
func written(pid int) int64 {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/io")
	_, after, _ := strings.Cut(string(b), "\nwrite_bytes: ")
	line, _, _ := strings.Cut(after, "\n")
	n, _ := strconv.ParseInt(line, 10, 64)
	return n
}

// flushes counts those of all disks; 0 where the system does not say.
func flushes() (n float64) {
	stats, _ := filepath.Glob("/sys/block/*/stat") // only fails for a bad pattern
	for _, s := range stats {
		b, _ := os.ReadFile(s)
		if f := strings.Fields(string(b)); len(f) > 15 {
			count, _ := strconv.ParseFloat(f[15], 64)
			n += count
		}
	}
	return n
}

// file is one on a disk, which may have several names.
type file struct {
	inode uint64
	size  int64
}

// walk tells of the files below a directory, each name once. What goes away meanwhile is left out.
func walk(dir string, f func(file)) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			f(file{inode(info), info.Size()})
		}
		return nil
	})
}

// inode tells files apart; 0 where the system has none.
func inode(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// disk is how many MiB a node's files have: of the state, of raft's log, and of snapshots as far as they do not
// share them with the state.
func disk(dir string) (state, log, snapshots float64) {
	seen := map[uint64]bool{}
	sum := func(pattern string) (bytes float64) {
		names, _ := filepath.Glob(filepath.Join(dir, pattern)) // only fails for a bad pattern
		for _, n := range names {
			walk(n, func(f file) {
				if !seen[f.inode] || f.inode == 0 {
					bytes += float64(f.size)
				}
				seen[f.inode] = true
			})
		}
		return bytes / mib
	}
	return sum("fsm/state-*"), sum("log") + sum("raft.*"), sum("fsm/snapshots")
}

// ignoreInterrupt keeps Ctrl-C, which a terminal gives to all, from a process.
func ignoreInterrupt(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
