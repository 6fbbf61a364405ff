// A candidate as programs on client-go's leader election are: the rival of the interoperability tests and of the fault matrix, and
// what the election benchmark compares with.
//
// It does what such a program can do well: it asks for leases alone with the small client, gives its requests half of the renew
// deadline as kube-controller-manager does, stops what it runs before it releases, and kills it at once when the lease is lost.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// stampInterval is the ledger writer's: finer than any hand-over.
const stampInterval = 10 * time.Millisecond

type options struct {
	kubeconfig, namespace, lease, identity, stamps string
	leaseDuration, renewDeadline, retryPeriod      time.Duration
	releaseOnCancel                                bool
	command                                        []string
}

func parse() (options, error) {
	var o options
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig (default: the pod's service account)")
	flag.StringVar(&o.namespace, "namespace", os.Getenv("NAMESPACE"), "the Lease's namespace (or NAMESPACE)")
	flag.StringVar(&o.lease, "lease", os.Getenv("LEASE_NAME"), "the Lease's name (or LEASE_NAME)")
	flag.StringVar(&o.identity, "identity", os.Getenv("POD_NAME"), "what is written as the holder (or POD_NAME)")
	flag.StringVar(&o.stamps, "stamps", "", "a folder: while leading, leave stamps there as the ledger's writer does")
	flag.DurationVar(&o.leaseDuration, "lease-duration", 15*time.Second, "LeaseDuration")
	flag.DurationVar(&o.renewDeadline, "renew-deadline", 10*time.Second, "RenewDeadline")
	flag.DurationVar(&o.retryPeriod, "retry-period", 2*time.Second, "RetryPeriod")
	flag.BoolVar(&o.releaseOnCancel, "release-on-cancel", true, "ReleaseOnCancel")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "client-go-candidate [flags] [-- command...]: runs the command, or leaves stamps, while leading")
		flag.PrintDefaults()
	}
	flag.Parse()
	o.command = flag.Args()
	if o.namespace == "" || o.lease == "" || o.identity == "" {
		return o, errors.New("--namespace, --lease and --identity are needed")
	}
	return o, nil
}

func main() {
	o, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	code, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

// run campaigns until it is told to end, the app ends, or leadership is lost; it gives the code to end with.
func run(o options) (int, error) {
	client, err := leases(o)
	if err != nil {
		return 0, err
	}
	told, stopListening := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stopListening()
	election, leave := context.WithCancel(context.Background())
	defer leave()

	app := &app{options: o}
	var leads atomic.Bool
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: o.namespace, Name: o.lease},
			Client:     client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.identity},
		},
		LeaseDuration:   o.leaseDuration,
		RenewDeadline:   o.renewDeadline,
		RetryPeriod:     o.retryPeriod,
		ReleaseOnCancel: o.releaseOnCancel,
		Name:            o.lease,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				leads.Store(true)
				say("leading", o.identity)
				// The Lease is released when the app has ended, not before.
				app.run(told)
				leave()
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(identity string) { say("new leader", identity) },
		},
	})
	if err != nil {
		return 0, err
	}
	go func() {
		<-told.Done()
		// A leader's app is told by `told` as well, and its end leads to the release.
		if !leads.Load() {
			leave()
		}
	}()
	say("standing by", o.identity)
	elector.Run(election)
	if election.Err() == nil {
		say("lost", o.identity)
		app.kill()
		return 1, nil
	}
	say("ended", o.identity)
	return int(app.code.Load()), nil
}

// leases makes a client for nothing but leases: a program with the whole clientset is larger.
func leases(o options) (coordinationv1.CoordinationV1Interface, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	}
	if err != nil {
		return nil, err
	}
	// As resourcelock.NewFromKubeconfig has it: a request that hangs must leave time for another.
	config.Timeout = o.renewDeadline / 2
	return coordinationv1.NewForConfig(rest.AddUserAgent(config, "leader-election"))
}

// app is what runs while leading: a command in a process group of its own, or stamps.
type app struct {
	options options
	group   atomic.Int64
	code    atomic.Int64
}

func (a *app) run(told context.Context) {
	if told.Err() != nil {
		return
	}
	if len(a.options.command) > 0 {
		a.runCommand(told)
	} else {
		a.leaveStamps(told)
	}
}

func (a *app) runCommand(told context.Context) {
	// The death signal comes when the starting thread ends.
	runtime.LockOSThread()
	command := exec.Command(a.options.command[0], a.options.command[1:]...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		a.code.Store(1)
		return
	}
	a.group.Store(int64(command.Process.Pid))
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case <-told.Done():
		_ = command.Process.Signal(syscall.SIGTERM)
		<-ended
	case <-ended:
		a.code.Store(int64(command.ProcessState.ExitCode()))
	}
}

// kill ends what is left, without asking.
func (a *app) kill() {
	if group := int(a.group.Load()); group > 0 {
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
}

// leaveStamps writes the file that leader_ledger::stamps reads: writer, no token, start, first and last moment on the boot clock.
func (a *app) leaveStamps(told context.Context) {
	if a.options.stamps == "" {
		<-told.Done()
		return
	}
	started := bootClock()
	name := fmt.Sprintf("%s.%d.%d.stamps", a.options.identity, started, os.Getpid())
	file, err := os.Create(filepath.Join(a.options.stamps, name))
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		a.code.Store(1)
		return
	}
	defer file.Close()
	ticker := time.NewTicker(stampInterval)
	defer ticker.Stop()
	for {
		line := fmt.Sprintf("%s - %d %d %020d\n", a.options.identity, started, started, bootClock())
		if _, err := file.WriteAt([]byte(line), 0); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			a.code.Store(1)
			return
		}
		select {
		case <-told.Done():
			return
		case <-ticker.C:
		}
	}
}

// bootClock is CLOCK_BOOTTIME in nanoseconds, which all processes of a machine share.
func bootClock() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

// say writes what happened as a line of JSON.
func say(event, identity string) {
	line, err := json.Marshal(map[string]any{"event": event, "identity": identity, "boot": bootClock()})
	if err == nil {
		fmt.Println(string(line))
	}
}
