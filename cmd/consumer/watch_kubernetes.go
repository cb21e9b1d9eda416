package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/secrets"
)

// watchGroup is `certpost watch`: directories, unless a command below it is named.
type watchGroup struct {
	Directories watchCmd           `cmd:"" default:"withargs" help:"Publish the certificates that appear in directories, and what hooks had to leave in the spool (may be left out)."`
	Kubernetes  watchKubernetesCmd `cmd:"" help:"Publish the certificates of TLS secrets in Kubernetes, such as cert-manager's; needs the program certpost-kubernetes."`
}

type watchKubernetesCmd struct {
	Namespace     []string          `help:"Watch the secrets of this namespace (repeatable; default: this pod's, or that of the kubeconfig)." placeholder:"NAME" sep:"none" xor:"namespaces"`
	AllNamespaces bool              `name:"all-namespaces" help:"Watch all namespaces." short:"A" xor:"namespaces"`
	Selector      string            `help:"Labels of the secrets to publish." default:"certpost.github.io/publish=true" placeholder:"K=V"`
	StoreKey      string            `name:"store-key" help:"Copy private keys to Vault before the publication: vault:MOUNT/PATH#FIELD; {namespace}, {name}, {key_type}, {cn} and {domain} are replaced." placeholder:"REF" xor:"key" required:""`
	NoKey         bool              `name:"no-key" help:"Copy no private keys: events reference none, except for secrets with the annotation key-ref." xor:"key" required:""`
	Target        []string          `help:"Deliver secrets without the annotation targets to this target (repeatable) instead of those that match." placeholder:"ID" sep:"none"`
	Label         map[string]string `help:"Label to match on (repeatable); {namespace} and {name} are replaced." placeholder:"K=V"`
	As            string            `name:"as" help:"Publish on certificate.issued.SOURCE, as the source that NATS and events.sources know; {namespace} is replaced." placeholder:"SOURCE"`
	Cluster       string            `help:"Name of the cluster in the events' source, kubernetes://CLUSTER/NAMESPACE/NAME, where several clusters publish." placeholder:"NAME"`
	Lease         string            `help:"Lease that decides which replica publishes; none: without an election." default:"certpost-kubernetes" placeholder:"NAME"`
	Memory        string            `help:"ConfigMap, beside the lease, that remembers what was published; none: after a restart only the stream and the ledger know." default:"certpost-kubernetes" placeholder:"NAME"`
	Kubeconfig    string            `help:"Kubeconfig file (default: KUBECONFIG, ~/.kube/config, else the pod's service account)." placeholder:"FILE"`
	Interval      time.Duration     `help:"How often all secrets are looked at, besides at each change." default:"10m"`
	Listen        string            `help:"Address of /livez, /readyz, /healthz and /metrics; none: no HTTP." default:"127.0.0.1:8081" placeholder:"ADDR"`
	Once          bool              `help:"Publish what is new, and end; without an election."`
}

// Validate checks the command line after it was parsed.
func (c *watchKubernetesCmd) Validate() error {
	if c.Interval < time.Second {
		return errors.New("--interval: want at least 1s")
	}
	if c.Selector == "" {
		return errors.New("--selector is empty: a label has to say which secrets are to be published")
	}
	if c.Listen != "none" {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			return fmt.Errorf("--listen %s: want HOST:PORT, or none", printable(c.Listen))
		}
	}
	if reason := c.unshared(); reason != "" {
		return fmt.Errorf("--store-key: %s", reason)
	}
	example := kubeSecret{kubeLine: kubeLine{Namespace: "namespace", Name: "name"}}
	if ref, err := secrets.ParseRef(strings.NewReplacer("{key_type}", "x", "{cn}", "x", "{domain}", "x").Replace(example.fill(c.StoreKey))); c.StoreKey != "" && err != nil {
		return fmt.Errorf("--store-key: %w", err)
	} else if c.StoreKey != "" && ref.Vault == nil {
		return errors.New("--store-key: keys can be stored only in Vault (vault:MOUNT/PATH#FIELD)")
	}
	if reason := events.WrongSource(example.fill(c.As)); reason != "" {
		return fmt.Errorf("--as %s: %s", printable(c.As), reason)
	}
	_, err := c.publish(&example, kubeAnnotations{})
	return err
}

// unshared returns why two secrets could get the same place for their keys, "" if they cannot:
// a client that may write secrets in one namespace must not replace the keys of another one.
func (c *watchKubernetesCmd) unshared() string {
	several := c.AllNamespaces || len(c.Namespace) > 1
	switch {
	case c.StoreKey == "":
		return ""
	case !strings.Contains(c.StoreKey, "{name}"):
		return "want {name} in it: each secret needs a place of its own"
	case several && !strings.Contains(c.StoreKey, "{namespace}"):
		return "want {namespace} in it: secrets of several namespaces may have one name"
	}
	return ""
}

// publish is the command that publishes a secret.
func (c *watchKubernetesCmd) publish(s *kubeSecret, a kubeAnnotations) (*publishCmd, error) {
	p := &publishCmd{StoreKey: s.fill(c.StoreKey), Target: cmp.Or(a.targets, commas(strings.Join(c.Target, ","))).list(), As: s.fill(c.As), Label: map[string]string{}, noForce: true}
	return p, p.Validate()
}

// Run publishes what is new until it is told to stop.
func (c *watchKubernetesCmd) Run(a *app) error {
	_, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	helper, err := kubeHelper()
	if err != nil {
		return err
	}
	w, err := newKubeWatcher(a, c, helper)
	if err != nil {
		return err
	}
	return w.run(a.ctx)
}

// kubeHelper finds the program that reads the secrets: beside this one, else on PATH.
func kubeHelper() (string, error) {
	name := "certpost-kubernetes"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), name); isProgram(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", usage("certpost watch kubernetes needs the program %s, beside certpost or on PATH. It is built by itself, so that certpost does without Kubernetes' libraries: go build -C cmd/certpost-kubernetes -o DIRECTORY/%s", name, name)
	}
	return path, nil
}

func isProgram(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}

// helperArgs are the flags for certpost-kubernetes.
func (c *watchKubernetesCmd) helperArgs() []string {
	args := []string{"-selector", c.Selector, "-resync", c.Interval.String(), "-identity", hostname() + "_" + rand.Text()}
	if c.Memory != "none" {
		args = append(args, "-memory", c.Memory)
	}
	if c.Kubeconfig != "" {
		args = append(args, "-kubeconfig", c.Kubeconfig)
	}
	for _, name := range c.Namespace {
		args = append(args, "-namespace", name)
	}
	if c.AllNamespaces {
		args = append(args, "-all-namespaces")
	}
	if c.Lease != "none" && !c.Once {
		args = append(args, "-lease", c.Lease)
	}
	return args
}

// run starts the helper, and again when it has ended, until the context ends.
func (w *kubeWatcher) run(ctx context.Context) error {
	stop, err := w.listen(ctx)
	if err != nil {
		return err
	}
	defer stop()
	w.log.Info().Str("program", w.helper).Str("version", programVersion()).Int("pid", os.Getpid()).Msg("certpost watch kubernetes is up")
	newSupervisor(os.Environ()).ready("watching Kubernetes")
	for failed := 0; ; failed++ {
		began := time.Now()
		err := w.serve(ctx)
		var final *failure
		switch {
		case ctx.Err() != nil:
			w.log.Info().Msg("certpost watch kubernetes has stopped")
			return nil
		case errors.As(err, &final), err == nil:
			return err
		}
		if time.Since(began) > time.Minute {
			failed = 0
		}
		w.ended(err)
		if w.cmd.Once {
			return err
		}
		backoff.Sleep(ctx, backoff.Jitter(time.Second<<min(failed, 5)))
	}
}
