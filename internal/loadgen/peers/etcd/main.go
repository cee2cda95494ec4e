// etcd: three embedded etcd servers, same workloads as ../nats.
//
//	go run ./etcd -mode put -conc 64
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"example.com/chat/internal/loadgen/peers/bench"
)

var (
	mode     = flag.String("mode", "put", "put|deliver|failover|load|fanout; there is no asynchronous Put")
	conc     = flag.Int("conc", 64, "callers, or watchers in fanout")
	size     = flag.Int("size", 200, "bytes of a value")
	d        = flag.Duration("d", 3*time.Second, "measured")
	dir      = flag.String("dir", "data/etcd", "for the servers' data; what is there is removed")
	trials   = flag.Int("trials", 10, "rounds of failover")
	n        = flag.Int("n", 1000000, "messages in load")
	rooms    = flag.Int("rooms", 100, "prefixes of keys")
	pace     = flag.Duration("pace", 10*time.Millisecond, "how often a publisher of deliver sends")
	fanconns = flag.Int("fanconns", 8, "connections of watchers in fanout")
	node     = flag.Int("node", -1, "internal: run one node")
	base     = flag.Int("port", 15220, "the first of the ports, of which 13 are used")
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}
func u(p int) url.URL { return url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", p)} }

func start(i int) *embed.Etcd {
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel = fmt.Sprint("n", i), filepath.Join(*dir, fmt.Sprint("n", i)), "fatal"
	c.LogOutputs = []string{"/dev/null"}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{u(*base + i)}, []url.URL{u(*base + i)}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{u(*base + 10 + i)}, []url.URL{u(*base + 10 + i)}
	c.QuotaBackendBytes = 8 << 30
	for j := 0; j < 3; j++ {
		if j > 0 {
			c.InitialCluster += ","
		} else {
			c.InitialCluster = ""
		}
		c.InitialCluster += fmt.Sprintf("n%d=http://127.0.0.1:%d", j, *base+10+j)
	}
	e, err := embed.StartEtcd(c)
	must(err)
	return e
}

func eps() []string {
	return []string{u0(0), u0(1), u0(2)}
}
func u0(i int) string { return fmt.Sprintf("127.0.0.1:%d", *base+i) }

func connect(e ...string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: e, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	must(err)
	return c
}

func leaderOf(c *clientv3.Client) int {
	for {
		for i := 0; i < 3; i++ {
			ctx, cf := context.WithTimeout(context.Background(), time.Second)
			s, err := c.Status(ctx, u0(i))
			cf()
			if err == nil && s.Leader == s.Header.MemberId {
				return i
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func spawn(i int) *exec.Cmd {
	c := exec.Command(os.Args[0], "-node", fmt.Sprint(i), "-dir", *dir, "-port", fmt.Sprint(*base))
	c.Stderr = os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(c.Start())
	return c
}

func main() {
	flag.Parse()
	if *node >= 0 {
		start(*node)
		select {}
	}
	os.RemoveAll(*dir)
	params := map[string]any{"mode": *mode, "conc": *conc, "fanconns": *fanconns, "size": *size, "rooms": *rooms, "n": *n}
	if *mode == "failover" || *mode == "load" {
		procs(params)
		return
	}
	for i := 0; i < 3; i++ {
		i := i
		go start(i)
	}
	c0 := connect(eps()...)
	li := leaderOf(c0)
	var conns []*clientv3.Client
	for i := 0; i < 4; i++ {
		conns = append(conns, connect(u0(li)))
	}
	var seq atomic.Int64
	mk := func() string {
		b := make([]byte, *size)
		binary.LittleEndian.PutUint64(b, uint64(time.Now().UnixNano()))
		return string(b)
	}
	put := func(c, i int) error {
		_, err := conns[c%4].Put(context.Background(), fmt.Sprintf("room%d/%012d", i%*rooms, seq.Add(1)), mk())
		return err
	}
	warm := time.Second
	meter := bench.StartMeter(warm)
	var r bench.Result
	switch *mode {
	case "put":
		r = bench.Closed(*conc, warm, *d, put)
	case "deliver":
		w := connect(u0((li + 1) % 3))
		var mu sync.Mutex
		var lats []int64
		ch := w.Watch(context.Background(), "room", clientv3.WithPrefix())
		go func() {
			for m := range ch {
				now := time.Now().UnixNano()
				mu.Lock()
				for _, e := range m.Events {
					lats = append(lats, now-int64(binary.LittleEndian.Uint64(e.Kv.Value)))
				}
				mu.Unlock()
			}
		}()
		time.Sleep(300 * time.Millisecond)
		bench.Closed(*conc, 0, *d, func(c, i int) error { time.Sleep(*pace); return put(c, i) })
		time.Sleep(300 * time.Millisecond)
		mu.Lock()
		r = bench.Summarise(lats, *d)
		mu.Unlock()
		params["pace"] = pace.String()
	case "fanout": // conc watchers of one key
		var got atomic.Int64
		for k := 0; k < *fanconns; k++ {
			cl := connect(u0(li))
			for j := 0; j < *conc / *fanconns; j++ {
				ch := cl.Watch(context.Background(), "fan")
				go func() {
					for m := range ch {
						got.Add(int64(len(m.Events)))
					}
				}()
			}
		}
		time.Sleep(2 * time.Second)
		var lats []int64
		per := int64(*conc / *fanconns * *fanconns)
		t0 := time.Now()
		for time.Since(t0) < *d {
			a := time.Now()
			want := got.Load() + per
			_, err := conns[0].Put(context.Background(), "fan", mk())
			must(err)
			for got.Load() < want {
				time.Sleep(20 * time.Microsecond)
			}
			lats = append(lats, int64(time.Since(a)))
		}
		r = bench.Summarise(lats, time.Since(t0))
		r.Extra["deliveries_per_s"] = r.Ops * float64(per)
	}
	meter.Into(&r)
	r.Name, r.Params, r.Version = "etcd", params, bench.Version("go.etcd.io/etcd/server/v3")
	r.Print()
	os.Exit(0)
}

func procs(params map[string]any) {
	var cs [3]*exec.Cmd
	for i := range cs {
		cs[i] = spawn(i)
	}
	cl := connect(eps()...)
	leaderOf(cl)
	put := func(to time.Duration) error {
		ctx, c := context.WithTimeout(context.Background(), to)
		defer c()
		_, err := cl.Put(ctx, "k", string(make([]byte, *size)))
		return err
	}
	if *mode == "failover" {
		var lats []int64
		for t := 0; t < *trials; t++ {
			for k := 0; k < 50; k++ {
				put(time.Second)
			}
			li := leaderOf(cl)
			a := time.Now()
			cs[li].Process.Kill()
			for put(150*time.Millisecond) != nil {
				time.Sleep(5 * time.Millisecond)
			}
			lats = append(lats, int64(time.Since(a)))
			cs[li].Wait()
			cs[li] = spawn(li)
			time.Sleep(3 * time.Second)
		}
		r := bench.Summarise(lats, time.Second)
		r.Ops = 0
		r.Name, r.Params, r.Version = "etcd", params, bench.Version("go.etcd.io/etcd/server/v3")
		sort.Slice(lats, func(i, j int) bool { return lats[i] < lats[j] })
		r.Extra = map[string]float64{"min_ms": float64(lats[0]) / 1e6, "median_ms": float64(lats[len(lats)/2]) / 1e6, "max_ms": float64(lats[len(lats)-1]) / 1e6}
		r.Print()
		os.Exit(0)
	}
	t0 := time.Now()
	var i atomic.Int64
	var wg sync.WaitGroup
	lc := connect(u0(leaderOf(cl)))
	for g := 0; g < 512; g++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				k := i.Add(1)
				if k > int64(*n) {
					return
				}
				_, err := lc.Put(context.Background(), fmt.Sprintf("room%d/%012d", k%int64(*rooms), k), string(make([]byte, *size)))
				if err != nil {
					time.Sleep(time.Millisecond)
				}
			}
		}()
	}
	wg.Wait()
	load := time.Since(t0)
	time.Sleep(3 * time.Second)
	rss, disk := 0.0, bench.DirMiB(*dir)/3
	for _, c := range cs {
		rss = max(rss, bench.RSS(fmt.Sprint(c.Process.Pid)))
		c.Process.Kill()
		c.Wait()
	}
	a := time.Now()
	for i := range cs {
		cs[i] = spawn(i)
	}
	for put(250*time.Millisecond) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	up := time.Since(a)
	r := bench.Result{Name: "etcd", Params: params, N: int64(*n), Ops: float64(*n) / load.Seconds(),
		Extra: map[string]float64{"rss_mib_node": rss, "disk_mib_node": disk, "restart_to_write_ms": float64(up.Milliseconds())}}
	r.Print()
	for _, c := range cs {
		c.Process.Kill()
	}
	os.Exit(0)
}
