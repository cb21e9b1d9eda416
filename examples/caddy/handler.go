// Package certpost is a Caddy module that publishes each certificate that Caddy obtains or
// renews. In a Caddyfile:
//
//	{
//		events {
//			on cert_obtained certpost {
//				program /usr/local/bin/certpost
//				config  /etc/certpost/caddy.yaml
//				flags   --store-key vault:secret/certs/{cn}#private_key
//			}
//		}
//	}
//
// It runs `certpost publish --from caddy`, which writes the event to its spool before it connects to
// NATS: an event that cannot be published now goes out later. So the module needs no client
// of NATS, no queue of its own, and no secret in Caddy's configuration.
package certpost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/certmagic"
)

func init() { caddy.RegisterModule(new(Handler)) }

// The module has the methods by which Caddy finds out what it can do.
var (
	_ caddyevents.Handler   = (*Handler)(nil)
	_ caddy.Provisioner     = (*Handler)(nil)
	_ caddy.CleanerUpper    = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)

const (
	// timeout ends a publication that does not end by itself; certpost needs at most half of it.
	timeout = time.Minute
	// parallel is how many publications run at a time: at its first start, Caddy may obtain the
	// certificates of many names.
	parallel = 16
)

// Handler handles the event cert_obtained.
type Handler struct {
	// Program is the path of certpost. Default: certpost, in PATH.
	Program string `json:"program,omitempty"`
	// Config is the path of certpost's configuration. Caddy's user must be able to read it, and to
	// write its spool. Default: certpost's own.
	Config string `json:"config,omitempty"`
	// Flags are further flags of `certpost publish`.
	Flags []string `json:"flags,omitempty"`

	files *certmagic.FileStorage
	log   *slog.Logger
	slots chan struct{}
	work  sync.WaitGroup
}

// CaddyModule names the module.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.certpost", New: func() caddy.Module { return new(Handler) }}
}

// Provision finds the program, and the directory of the certificates.
func (h *Handler) Provision(ctx caddy.Context) error {
	if h.Program == "" {
		h.Program = "certpost"
	}
	program, err := exec.LookPath(h.Program)
	if err != nil {
		return fmt.Errorf("find the program certpost: %w", err)
	}
	files, ok := ctx.Storage().(*certmagic.FileStorage)
	if !ok {
		return fmt.Errorf("certificates are kept in %T: certpost publishes only those in files (storage file_system)", ctx.Storage())
	}
	h.Program, h.files, h.log, h.slots = program, files, ctx.Slogger(), make(chan struct{}, parallel)
	return nil
}

// Handle publishes a certificate. It does not wait: until handlers return, Caddy does not use the
// certificate.
func (h *Handler) Handle(_ context.Context, e caddy.Event) error {
	if e.Name() != "cert_obtained" { // it may be subscribed to all events
		return nil
	}
	cert, _ := e.Data["certificate_path"].(string)
	key, _ := e.Data["private_key_path"].(string)
	if cert == "" || key == "" {
		return errors.New("the event has no certificate_path or no private_key_path")
	}
	name, _ := e.Data["identifier"].(string)
	h.work.Go(func() {
		h.slots <- struct{}{}
		defer func() { <-h.slots }()
		h.publish(name, h.files.Filename(cert), h.files.Filename(key))
	})
	return nil
}

// publish runs certpost. Its output says what became of the event, and has no secrets.
func (h *Handler) publish(name, cert, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var args []string
	if h.Config != "" {
		args = append(args, "--config", h.Config)
	}
	args = append(append(args, "publish", "--from", "caddy"), h.Flags...)
	cmd := exec.CommandContext(ctx, h.Program, append(args, "--", cert, key)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	log := h.log.With("identifier", name, "certificate", cert, "output", strings.TrimSpace(output.String()))
	if err != nil {
		log.Error("the certificate is not published; `certpost watch --once` finds it", "error", err)
		return
	}
	log.Info("certpost publish")
}

// Cleanup waits for publications when Caddy ends or loads another configuration.
func (h *Handler) Cleanup() error {
	h.work.Wait()
	return nil
}

// UnmarshalCaddyfile reads the module's block.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "program":
			if !d.AllArgs(&h.Program) {
				return d.ArgErr()
			}
		case "config":
			if !d.AllArgs(&h.Config) {
				return d.ArgErr()
			}
		case "flags":
			if h.Flags = append(h.Flags, d.RemainingArgs()...); len(h.Flags) == 0 {
				return d.ArgErr()
			}
		default:
			return d.Errf("unknown option %s: want program, config or flags", d.Val())
		}
	}
	return nil
}
