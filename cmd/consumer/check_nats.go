package main

import (
	"context"
	"errors"
	"os"
	"runtime"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/config"
)

// inspect checks the files of the embedded NATS server, so that `check` reports what would
// stop `run`, and seeds that others can read.
func (n *NATSConfig) inspect(ctx context.Context, dataDir string, now time.Time) []config.Problem {
	var f findings
	if n.URL != "" {
		return nil
	}
	if n.TLS.CertFile != "" && n.TLS.KeyFile != "" {
		c, err := openCertificate(ctx, embeddedNATS, n.TLS.serverFiles(), nil, zerolog.Nop())
		if err != nil {
			f.err("nats.tls", errors.Unwrap(err).Error())
		} else if err := validity(c.current.Leaf, now, expiresSoon); err != nil {
			f.warn("nats.tls.cert_file", err.Error())
		}
	}
	if n.TLS.ClientCAFile != "" {
		if _, err := n.TLS.clientCAs(); err != nil {
			f.err("nats.tls.client_ca_file", err.Error())
		}
	}
	for _, role := range []broker.Role{broker.Administrator, broker.Publisher} {
		seed := broker.SeedFile(dataDir, role)
		if info, err := os.Stat(seed); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			f.warn("data_dir", seed+" can be read by other users: `certpost run` closes it at its next start; if another user may have read it, remove it before, and a new one is made")
		}
	}
	return f
}
