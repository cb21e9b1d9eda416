// Command vault-dev is a real HashiCorp Vault core for integration tests: memory
// storage, Shamir seal with one key share, loopback only. It has the engines
// kv (1 and 2), transit and pki, the auth methods approle, cert, jwt, kubernetes,
// token and userpass, and the file audit device.
//
// It prints one line of JSON with its address, root token, unseal key and, with
// -tls-dir, CA file. It then serves until SIGTERM, SIGINT or, with -stdin-eof,
// the end of its standard input; with -stdin-eof it does not outlive the test that
// started it. See README.md for its licence.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/vault"
)

type options struct {
	listen   string // loopback host:port
	token    string // root token, "" generates one
	tlsDir   string // "" serves plain HTTP
	noInit   bool
	level    string
	stdinEOF bool
}

// announcement is the JSON line on standard output.
type announcement struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token,omitempty"`
	UnsealKey string `json:"unseal_key,omitempty"` // hexadecimal
	CAFile    string `json:"ca_file,omitempty"`
}

func main() {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback address to listen on")
	flag.StringVar(&o.token, "root-token-id", "", "fixed root token (default: a generated one)")
	flag.StringVar(&o.tlsDir, "tls-dir", "", "serve TLS; write the CA certificate to DIR/ca.pem")
	flag.BoolVar(&o.noInit, "no-init", false, "leave the server uninitialized")
	flag.StringVar(&o.level, "log-level", "error", "log level, to standard error")
	flag.BoolVar(&o.stdinEOF, "stdin-eof", false, "stop when standard input ends")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "vault-dev:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(o.level), Output: os.Stderr})
	listener, said, err := listen(o)
	if err != nil {
		return err
	}
	core, err := newCore(said.Address, o.level, log)
	if err != nil {
		return err
	}
	if !o.noInit {
		if said.RootToken, said.UnsealKey, err = initialize(core, o.token); err != nil {
			return err
		}
	}
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Type: "tcp", Address: o.listen, TLSDisable: o.tlsDir == ""},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.StandardLogger(nil),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.stdinEOF {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = server.Shutdown(grace)
	return core.Shutdown()
}

func listen(o options) (net.Listener, announcement, error) {
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return nil, announcement{}, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, announcement{}, fmt.Errorf("-listen %s: not a loopback address", o.listen)
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, announcement{}, err
	}
	if o.tlsDir == "" {
		return listener, announcement{Address: "http://" + listener.Addr().String()}, nil
	}
	conf, ca, err := selfSigned(o.tlsDir)
	if err != nil {
		return nil, announcement{}, err
	}
	return tls.NewListener(listener, conf), announcement{Address: "https://" + listener.Addr().String(), CAFile: ca}, nil
}
