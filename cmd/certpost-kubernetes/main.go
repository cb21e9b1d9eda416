// Certpost-kubernetes reads TLS secrets from Kubernetes for `certpost watch kubernetes`, which
// starts it and publishes what it reports. It knows Kubernetes, and neither NATS, Vault nor events.
//
// It writes one JSON object per line to standard output (report.go) and reads what became of the
// secrets from standard input (events.go); both must be pipes, because reports hold private keys.
// It ends with 0 at SIGTERM and at the end of its input, with 2 if it is used wrongly.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// options are the flags. `certpost watch kubernetes` passes all of them.
type options struct {
	kubeconfig     string
	namespaces     []string // none: that of this pod
	allNamespaces  bool
	selector       string // of labels
	lease          string // "" does without an election
	leaseNamespace string // "": that of this pod
	identity       string // of this process in the election
	memory         string // ConfigMap in leaseNamespace; "" remembers nothing
	resync         time.Duration
	terms          terms
}

func main() {
	quiet()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if err == nil && !isPipe(os.Stdout) {
		err = errors.New("its output holds private keys and is only for `certpost watch kubernetes`, which starts this program")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "certpost-kubernetes:", err)
		os.Exit(2)
	}
	if err := run(ctx, o, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "certpost-kubernetes:", err)
		os.Exit(1)
	}
}

// quiet discards what Kubernetes' libraries log: what is wrong is reported, once.
func quiet() { klog.SetLoggerWithOptions(klog.Logger{}, klog.ContextualLogger(true)) }

func parse(args []string) (options, error) {
	o := options{terms: usualTerms}
	flags := flag.NewFlagSet("certpost-kubernetes", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "")
	flags.Func("namespace", "", func(name string) error { o.namespaces = append(o.namespaces, name); return nil })
	flags.BoolVar(&o.allNamespaces, "all-namespaces", false, "")
	flags.StringVar(&o.selector, "selector", "", "")
	flags.StringVar(&o.lease, "lease", "", "")
	flags.StringVar(&o.leaseNamespace, "lease-namespace", "", "")
	flags.StringVar(&o.identity, "identity", "", "")
	flags.StringVar(&o.memory, "memory", "", "")
	flags.DurationVar(&o.resync, "resync", 10*time.Minute, "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, nil
}

func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// run reports until the context or the input ends.
func run(ctx context.Context, o options, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &reporter{out: out, failed: cancel}
	r.report(line{Type: typeHello, Protocol: protocol})
	cfg, own, err := connection(o.kubeconfig)
	if err != nil {
		return err
	}
	core, err := corev1.NewForConfig(cfg)
	if err != nil {
		return err
	}
	coordination, err := coordinationv1.NewForConfig(cfg)
	if err != nil {
		return err
	}
	if o.leaseNamespace == "" {
		o.leaseNamespace = own
	}
	switch {
	case o.allNamespaces:
		o.namespaces = []string{""}
	case len(o.namespaces) == 0:
		o.namespaces = []string{own}
	}
	var m *memory
	if o.memory != "" {
		m = newMemory(core.ConfigMaps(o.leaseNamespace), o.memory, r)
	}
	go func() {
		defer cancel() // who started this program has ended
		notes := &noteWriter{events: core, memory: m}
		for lines := bufio.NewScanner(in); lines.Scan(); {
			notes.write(ctx, lines.Bytes())
		}
	}()
	w := &watcher{client: core.RESTClient(), options: o, reporter: r, memory: m}
	if o.lease == "" {
		r.report(line{Type: typeLeading})
		w.watch(ctx)
	} else {
		err = elect(ctx, coordination, o, r, w.watch)
	}
	return errors.Join(err, r.err())
}

// connection returns how to reach the API server, and the namespace of this pod or of the
// kubeconfig's context.
func connection(kubeconfig string) (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules() // KUBECONFIG, ~/.kube/config, else the pod's service account
	rules.ExplicitPath = kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("no way to reach Kubernetes: not in a pod with a service account, and no usable kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, "", err
	}
	cfg.UserAgent = "certpost-kubernetes"
	return cfg, namespace, nil
}
