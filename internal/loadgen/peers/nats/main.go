// nats: three clustered NATS servers with an R3 file stream, same workloads as ../etcd.
//
//	go run ./nats -mode put -conc 64 -sync always
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"net/url"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.com/chat/internal/loadgen/peers/bench"
)

var (
	mode     = flag.String("mode", "put", "put|async|deliver|failover|load|fanout")
	conc     = flag.Int("conc", 64, "callers, or the window in async, or subscribers in fanout")
	size     = flag.Int("size", 200, "bytes of a message")
	sync_    = flag.String("sync", "always", "always|default, which does not fsync each message")
	dedup    = flag.Bool("dedup", false, "give each message an id by which retries are recognised")
	d        = flag.Duration("d", 3*time.Second, "measured")
	dir      = flag.String("dir", "data/nats", "for the servers' data; what is there is removed")
	trials   = flag.Int("trials", 10, "rounds of failover")
	n        = flag.Int("n", 1000000, "messages in load")
	rooms    = flag.Int("rooms", 100, "subjects")
	pace     = flag.Duration("pace", 10*time.Millisecond, "how often a publisher of deliver sends")
	window   = flag.Int("window", 1, "messages of fanout that are under way at a time")
	fanconns = flag.Int("fanconns", 8, "subscriber connections in fanout")
	node     = flag.Int("node", -1, "internal: run one node")
	base     = flag.Int("port", 14220, "the first of the ports, of which 13 are used")
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func start(i int) *server.Server {
	o := &server.Options{ServerName: fmt.Sprint("n", i), Host: "127.0.0.1", Port: *base + i, JetStream: true, NoLog: true, NoSigs: true,
		StoreDir: filepath.Join(*dir, fmt.Sprint("n", i)), SyncAlways: *sync_ == "always",
		Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: *base + 10 + i}}
	for j := 0; j < 3; j++ {
		u, _ := url.Parse(fmt.Sprintf("nats://127.0.0.1:%d", *base+10+j))
		o.Routes = append(o.Routes, u)
	}
	s, err := server.NewServer(o)
	must(err)
	s.Start()
	return s
}

func urls() string {
	var u []string
	for i := 0; i < 3; i++ {
		u = append(u, fmt.Sprintf("nats://127.0.0.1:%d", *base+i))
	}
	return strings.Join(u, ",")
}

func connect(u string) (*nats.Conn, jetstream.JetStream) {
	var nc *nats.Conn
	var err error
	for i := 0; i < 200; i++ {
		if nc, err = nats.Connect(u, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0)); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	must(err)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(100000))
	must(err)
	return nc, js
}

func makeStream(js jetstream.JetStream) jetstream.Stream {
	var st jetstream.Stream
	var err error
	for i := 0; i < 100; i++ {
		ctx, c := context.WithTimeout(context.Background(), 2*time.Second)
		st, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}, Replicas: 3, Storage: jetstream.FileStorage})
		c()
		if err == nil {
			return st
		}
		time.Sleep(100 * time.Millisecond)
	}
	panic(err)
}

func leaderOf(st jetstream.Stream) int {
	for {
		ctx, c := context.WithTimeout(context.Background(), 2*time.Second)
		in, err := st.Info(ctx)
		c()
		if err == nil && in.Cluster != nil && strings.HasPrefix(in.Cluster.Leader, "n") {
			i, _ := strconv.Atoi(in.Cluster.Leader[1:])
			return i
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func spawn(i int) *exec.Cmd {
	c := exec.Command(os.Args[0], "-node", fmt.Sprint(i), "-dir", *dir, "-sync", *sync_, "-port", fmt.Sprint(*base))
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
	params := map[string]any{"mode": *mode, "conc": *conc, "sync": *sync_, "dedup": *dedup, "fanconns": *fanconns, "size": *size, "rooms": *rooms, "n": *n}
	subj := make([]string, *rooms)
	for i := range subj {
		subj[i] = fmt.Sprint("chat.room", i)
	}
	if *mode == "failover" || *mode == "load" {
		procs(subj, params)
		return
	}
	for i := 0; i < 3; i++ {
		start(i)
	}
	_, js0 := connect(urls())
	st := makeStream(js0)
	time.Sleep(500 * time.Millisecond)
	li := leaderOf(st)
	var conns []jetstream.JetStream
	for i := 0; i < 4; i++ {
		_, js := connect(fmt.Sprintf("nats://127.0.0.1:%d", *base+li))
		conns = append(conns, js)
	}
	var ids atomic.Int64
	var opts func() []jetstream.PublishOpt = func() []jetstream.PublishOpt { return nil }
	if *dedup {
		opts = func() []jetstream.PublishOpt {
			return []jetstream.PublishOpt{jetstream.WithMsgID(strconv.FormatInt(ids.Add(1), 36))}
		}
	}
	mk := func() []byte {
		b := make([]byte, *size)
		binary.LittleEndian.PutUint64(b, uint64(time.Now().UnixNano()))
		return b
	}
	warm := time.Second
	meter := bench.StartMeter(warm)
	var r bench.Result
	switch *mode {
	case "put":
		r = bench.Closed(*conc, warm, *d, func(c, i int) error {
			_, err := conns[c%4].Publish(context.Background(), subj[(c*31+i)%*rooms], mk(), opts()...)
			return err
		})
	case "async": // conc is the window
		sem := make(chan struct{}, *conc)
		var mu sync.Mutex
		var lats []int64
		t0, t1 := time.Now().Add(warm), time.Now().Add(warm+*d)
		for i := 0; time.Now().Before(t1); i++ {
			sem <- struct{}{}
			a := time.Now()
			f, err := conns[i%4].PublishAsync(subj[i%*rooms], mk(), opts()...)
			must(err)
			go func() {
				select {
				case <-f.Ok():
					if b := time.Now(); a.After(t0) && b.Before(t1) {
						mu.Lock()
						lats = append(lats, int64(b.Sub(a)))
						mu.Unlock()
					}
				case <-f.Err():
				}
				<-sem
			}()
		}
		mu.Lock()
		r = bench.Summarise(lats, *d)
		mu.Unlock()
	case "deliver": // one paced publisher at the leader's server, one ordered consumer at another
		nc, js := connect(fmt.Sprintf("nats://127.0.0.1:%d", *base+(li+1)%3))
		_ = nc
		cons, err := js.OrderedConsumer(context.Background(), "CHAT", jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
		must(err)
		var mu sync.Mutex
		var lats []int64
		cc, err := cons.Consume(func(m jetstream.Msg) {
			t := time.Now().UnixNano() - int64(binary.LittleEndian.Uint64(m.Data()))
			mu.Lock()
			lats = append(lats, t)
			mu.Unlock()
		})
		must(err)
		time.Sleep(300 * time.Millisecond)
		bench.Closed(*conc, 0, *d, func(c, i int) error {
			time.Sleep(*pace)
			_, err := conns[c%4].Publish(context.Background(), subj[i%*rooms], mk())
			return err
		})
		time.Sleep(300 * time.Millisecond)
		cc.Stop()
		mu.Lock()
		r = bench.Summarise(lats, *d)
		mu.Unlock()
		params["pace"] = pace.String()
	case "fanout": // core NATS, conc subscribers over 8 connections on one server
		var got atomic.Int64
		for k := 0; k < *fanconns; k++ {
			nc, _ := connect(fmt.Sprintf("nats://127.0.0.1:%d", *base))
			for j := 0; j < *conc / *fanconns; j++ {
				sb, err := nc.Subscribe("fan.x", func(*nats.Msg) { got.Add(1) })
				must(err)
				sb.SetPendingLimits(-1, -1)
			}
			nc.Flush()
		}
		pub, _ := connect(fmt.Sprintf("nats://127.0.0.1:%d", *base))
		var lats []int64
		var begun []time.Time
		t0 := time.Now()
		per := int64(*conc / *fanconns * *fanconns)
		for time.Since(t0) < *d {
			begun = append(begun, time.Now())
			pub.Publish("fan.x", mk())
			pub.Flush()
			for len(begun)-len(lats) >= *window {
				if got.Load() < int64(len(lats)+1)*per {
					time.Sleep(20 * time.Microsecond)
					continue
				}
				lats = append(lats, int64(time.Since(begun[len(lats)])))
			}
		}
		r = bench.Summarise(lats, time.Since(t0))
		r.Extra["deliveries_per_s"] = r.Ops * float64(per)
	}
	meter.Into(&r)
	r.Name, r.Params, r.Version = "nats-jetstream", params, bench.Version("github.com/nats-io/nats-server/v2")
	r.Print()
	os.Exit(0)
}

// procs runs the workloads that need separate processes: kill -9 failover, and load/restart.
func procs(subj []string, params map[string]any) {
	var cs [3]*exec.Cmd
	for i := range cs {
		cs[i] = spawn(i)
	}
	_, js := connect(urls())
	st := makeStream(js)
	time.Sleep(time.Second)
	pub := func(to time.Duration) error {
		ctx, c := context.WithTimeout(context.Background(), to)
		defer c()
		_, err := js.Publish(ctx, subj[0], make([]byte, *size), jetstream.WithRetryAttempts(0))
		return err
	}
	if *mode == "failover" {
		var lats []int64
		for t := 0; t < *trials; t++ {
			for k := 0; k < 50; k++ {
				if pub(time.Second) != nil {
					time.Sleep(50 * time.Millisecond)
				}
			}
			li := leaderOf(st)
			a := time.Now()
			cs[li].Process.Kill()
			for pub(150*time.Millisecond) != nil {
				time.Sleep(5 * time.Millisecond)
			}
			lats = append(lats, int64(time.Since(a)))
			cs[li].Wait()
			cs[li] = spawn(li)
			time.Sleep(4 * time.Second)
		}
		r := bench.Summarise(lats, time.Second)
		r.Ops = 0
		r.Name, r.Params, r.Version = "nats-jetstream", params, bench.Version("github.com/nats-io/nats-server/v2")
		sort.Slice(lats, func(i, j int) bool { return lats[i] < lats[j] })
		r.Extra = map[string]float64{"min_ms": float64(lats[0]) / 1e6, "median_ms": float64(lats[len(lats)/2]) / 1e6, "max_ms": float64(lats[len(lats)-1]) / 1e6}
		r.Print()
		os.Exit(0)
	}
	// load: n messages, memory, size on disk, then kill -9 all and time the restart to first acked publish.
	t0 := time.Now()
	for i := 0; i < *n; i++ {
		for js.PublishAsyncPending() > 5000 {
			time.Sleep(200 * time.Microsecond)
		}
		b := make([]byte, *size)
		binary.LittleEndian.PutUint64(b, uint64(i))
		if _, err := js.PublishAsync(subj[i%*rooms], b); err != nil {
			i--
			time.Sleep(time.Millisecond)
		}
	}
	<-js.PublishAsyncComplete()
	load := time.Since(t0)
	time.Sleep(3 * time.Second)
	rss, disk := 0.0, bench.DirMiB(*dir)/3
	for _, c := range cs {
		rss = max(rss, bench.RSS(fmt.Sprint(c.Process.Pid)))
	}
	for _, c := range cs {
		c.Process.Kill()
		c.Wait()
	}
	a := time.Now()
	for i := range cs {
		cs[i] = spawn(i)
	}
	for pub(250*time.Millisecond) != nil {
		time.Sleep(10 * time.Millisecond)
	}
	up := time.Since(a)
	r := bench.Result{Name: "nats-jetstream", Params: params, N: int64(*n), Ops: float64(*n) / load.Seconds(),
		Extra: map[string]float64{"rss_mib_node": rss, "disk_mib_node": disk, "restart_to_write_ms": float64(up.Milliseconds())}}
	r.Print()
	for _, c := range cs {
		c.Process.Kill()
	}
	os.Exit(0)
}
