//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/bench/road"
	"github.com/certpost/certpost/internal/broker"
)

// guest is the target that is defined only at times.
const guest = "guest"

// everyone are the recipients of the target with several.
var everyone = []string{"first@example.com", "second@example.com", "third@example.com"}

// target is one target definition, and the relay it delivers to.
type target struct {
	id    string
	relay *relay
	to    []string
	keyed bool
	lines string // further keys
}

// world is everything that runs.
type world struct {
	dir, config, targetsFile, program string
	servers, certposts                []*harness.Process
	pages                             []string // host:port of each Certpost
	url                               string   // of the NATS servers
	relays                            []*relay
	targets                           []target
	source                            *source
	secrets                           []string       // no log may hold one
	observer                          *broker.Broker // this program's own connection
	revision                          int            // of the definitions
	deleted, refused                  int            // deliveries, and orders
}

// newWorld prepares everything in a directory, and starts the relays.
func newWorld(program, dir string, certposts int, seed uint64) (w *world, err error) {
	w = &world{dir: dir, program: program, config: filepath.Join(dir, "certpost.yaml"), targetsFile: filepath.Join(dir, "targets", "targets.yaml")}
	keys := filepath.Join(dir, "keys")
	for _, d := range []string{keys, filepath.Dir(w.targetsFile)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, err
		}
	}
	a, err := newAuthority("Soak CA")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(a.pem()), 0o600); err != nil {
		return nil, err
	}
	if err := w.newRelays(a, seed); err != nil {
		return w, err
	}
	w.source = &source{authority: a, outside: filepath.Join(dir, "passphrase"), random: mathrand.New(mathrand.NewPCG(seed, 1)), all: map[string]*published{}}
	if w.source.certificates, err = newCertificates(a, keys); err != nil {
		return w, err
	}
	for _, c := range w.source.certificates {
		w.secrets = append(w.secrets, strings.Split(c.key, "\n")[1])
	}
	for _, t := range w.targets {
		switch {
		case t.id == guest:
		case t.keyed:
			w.source.keyed = append(w.source.keyed, t.id)
		default:
			w.source.keyless = append(w.source.keyless, t.id)
		}
	}
	if err := w.define(true, ""); err != nil {
		return w, err
	}
	return w, w.newProcesses(certposts, keys)
}

// secret returns a new secret of that many characters, and writes it into a file.
func (w *world) secret(name string, length int) (string, error) {
	text := ""
	for len(text) < length {
		text += rand.Text()
	}
	text = text[:length]
	w.secrets = append(w.secrets, text[:min(length, 24)])
	return text, os.WriteFile(filepath.Join(w.dir, name), []byte(text+"\n"), 0o600)
}

// newRelays starts the relays, each with traits of its own, and defines their targets.
func (w *world) newRelays(a *authority, seed uint64) error {
	cert, err := a.relayCertificate()
	if err != nil {
		return err
	}
	stranger, err := newAuthority("Another CA")
	if err != nil {
		return err
	}
	foreign, err := stranger.relayCertificate()
	if err != nil {
		return err
	}
	modern := []string{"PIPELINING", "8BITMIME", "SIZE 10485760", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"}
	one := []string{"certificates@example.com"}
	if _, err := w.secret("passphrase", 24); err != nil {
		return err
	}
	for i, d := range []struct {
		traits
		secretLength int
		to           []string
		lines        string
	}{
		{traits{Name: "bare", Security: "starttls", Auth: "LOGIN", Offers: []string{"8BITMIME"}, Bare: true}, 24, one, ""},
		{traits{Name: "session", Security: "starttls", Auth: "PLAIN", Offers: modern, Session: 4}, 24, one, ""},
		{traits{Name: "token", Security: "starttls", Auth: "XOAUTH2", Offers: modern}, 900, one, ""},
		{traits{Name: "packed", Security: "smtps", Auth: "PLAIN", Offers: []string{"PIPELINING"}}, 300, one,
			"payload: pkcs12, pkcs12_passphrase: {file: " + strconv.Quote(filepath.Join(w.dir, "passphrase")) + "}"},
		{traits{Name: "keyed", Security: "starttls", Auth: "PLAIN", Offers: modern}, 24, one, "payload: pem_and_key"},
		{traits{Name: "several", Security: "starttls", Auth: "PLAIN", Offers: modern, Session: 9}, 24, everyone, ""},
		{traits{Name: "plain", Security: "plaintext", Offers: nil, Split: true}, 0, one, ""},
	} {
		if d.secretLength > 0 {
			if d.Secret, err = w.secret(d.Name, d.secretLength); err != nil {
				return err
			}
		}
		address, err := road.FreeAddress()
		if err != nil {
			return err
		}
		r, err := newRelay(d.traits, mathrand.New(mathrand.NewPCG(seed, uint64(100+i))), address, cert, foreign)
		if err != nil {
			return err
		}
		w.relays = append(w.relays, r)
		w.targets = append(w.targets, target{d.Name, r, d.to, strings.Contains(d.lines, "pkcs12") || strings.Contains(d.lines, "and_key"), d.lines})
	}
	w.targets = append(w.targets, target{id: guest, relay: w.relays[len(w.relays)-1], to: one})
	return nil
}

// define writes the definitions, with or without the guest, and something wrong.
func (w *world) define(withGuest bool, wrong string) error {
	w.revision++
	var text strings.Builder
	text.WriteString("targets:\n")
	for _, t := range w.targets {
		if t.id == guest && !withGuest {
			continue
		}
		host, port, _ := strings.Cut(t.relay.address, ":")
		fmt.Fprintf(&text, "  - {id: %s, host: %s, port: %s, tls_mode: %s, timeout: 10s, from_address: certs@example.com, to: [%s], subject_prefix: \"[%d]\"",
			t.id, host, port, t.relay.Security, strings.Join(t.to, ", "), w.revision)
		if t.relay.Security != "plaintext" {
			fmt.Fprintf(&text, ", ca_file: %q", filepath.Join(w.dir, "ca.pem"))
		}
		if t.relay.Auth != "" {
			fmt.Fprintf(&text, ", auth_method: %s, username: %s, password: {file: %q}", strings.ToLower(t.relay.Auth), user, filepath.Join(w.dir, t.relay.Name))
		}
		if t.lines != "" {
			text.WriteString(", " + t.lines)
		}
		text.WriteString("}\n")
	}
	text.WriteString(wrong)
	fresh := w.targetsFile + ".new"
	return errors.Join(os.WriteFile(fresh, []byte(text.String()), 0o600), os.Rename(fresh, w.targetsFile))
}

// newProcesses prepares NATS servers and Certposts.
func (w *world) newProcesses(certposts int, keys string) error {
	servers, urls, err := harness.NewServers(w.dir)
	if err != nil {
		return err
	}
	w.servers, w.url = servers, strings.Join(urls, ",")
	text := fmt.Sprintf(`data_dir: %q
nats: {url: %q, replicas: 3}
log: {format: json, level: debug, addresses: true}
events: {file_roots: [%q]}
delivery: {retry: {initial: 1s, max: 10s, multiplier: 2}}
relays: {default: {max_connections: 6, limit_pause: 3s}}
targets_dir: %q
`, filepath.Join(w.dir, "data"), w.url, keys, filepath.Dir(w.targetsFile))
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		return err
	}
	for i := range certposts {
		page, err := road.FreeAddress()
		if err != nil {
			return err
		}
		w.pages = append(w.pages, page)
		name := fmt.Sprintf("certpost%d", i+1)
		w.certposts = append(w.certposts, &harness.Process{Name: name, Log: filepath.Join(w.dir, name+".log"), Command: func() *exec.Cmd {
			cmd := w.certpost(context.Background(), "run")
			cmd.Env = append(cmd.Env, "CERTPOST_HTTP_LISTEN="+page)
			return cmd
		}})
	}
	return nil
}

// certpost returns a command of the program.
func (w *world) certpost(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.program, append(args, "-c", w.config)...)
	cmd.Dir, cmd.Env = w.dir, os.Environ()
	return cmd
}

// start starts the processes and waits until the streams are there.
func (w *world) start(ctx context.Context) error {
	for _, p := range append(w.servers, w.certposts...) {
		if err := p.Start(); err != nil {
			return err
		}
	}
	var err error
	if w.observer, err = broker.Open(broker.Config{URL: w.url}, zerolog.Nop()); err != nil {
		return err
	}
	return road.Poll(ctx, 2*time.Minute, func() error {
		_, err := w.observer.Backlog(ctx)
		return err
	})
}

// close ends everything that runs.
func (w *world) close() {
	if w.observer != nil {
		w.observer.Close()
	}
	for _, p := range append(w.certposts, w.servers...) {
		_ = p.End(syscall.SIGKILL)
	}
	for _, r := range w.relays {
		r.close()
	}
}

func (w *world) target(id string) target {
	for _, t := range w.targets {
		if t.id == id {
			return t
		}
	}
	return target{}
}
