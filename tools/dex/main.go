// Command dex-dev is a real OpenID Connect provider, Dex, for integration tests:
// memory storage, users with passwords and groups, loopback only.
//
// It reads one line of JSON from standard input (see setup), prints one line of JSON
// with its issuer, and serves until standard input ends, so that it does not outlive the
// test that started it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/dexidp/dex/server"
	"github.com/dexidp/dex/server/connectors"
	"github.com/dexidp/dex/server/session"
	"github.com/dexidp/dex/server/signer"
	"github.com/dexidp/dex/storage"
	"github.com/dexidp/dex/storage/memory"
	"github.com/dexidp/dex/web"
	"golang.org/x/crypto/bcrypt"
)

// setup is the JSON line on standard input.
type setup struct {
	Client struct {
		ID            string   `json:"id"`
		Secret        string   `json:"secret"`
		Redirects     []string `json:"redirects"`
		AfterSignOut  []string `json:"after_sign_out"`
		TokenLifetime string   `json:"token_lifetime"` // a Go duration; empty: one hour
	} `json:"client"`
	Users []struct {
		ID         string   `json:"id"` // Dex derives the sub claim from it
		Email      string   `json:"email"`
		Unverified bool     `json:"unverified"`
		Name       string   `json:"name"`
		Password   string   `json:"password"`
		Groups     []string `json:"groups"`
	} `json:"users"`
}

func main() {
	level := flag.String("log-level", "error", "log level, to standard error")
	flag.Parse()
	if err := run(*level); err != nil {
		fmt.Fprintln(os.Stderr, "dex-dev:", err)
		os.Exit(1)
	}
}

func run(level string) error {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return fmt.Errorf("-log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: least}))
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading the setup: %w", err)
	}
	var s setup
	if err := json.Unmarshal(line, &s); err != nil {
		return fmt.Errorf("reading the setup: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	issuer := "http://" + listener.Addr().String() + "/dex"
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dex, err := s.open(ctx, issuer, log)
	if err != nil {
		return err
	}
	httpServer := &http.Server{Handler: dex, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- httpServer.Serve(listener) }()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"issuer": issuer}); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	select {
	case err := <-failed:
		return err
	case <-ended:
		return httpServer.Close()
	}
}

// open returns the handler of a Dex server that is configured by the setup.
func (s *setup) open(ctx context.Context, issuer string, log *slog.Logger) (http.Handler, error) {
	lifetime := time.Hour
	if text := s.Client.TokenLifetime; text != "" {
		var err error
		if lifetime, err = time.ParseDuration(text); err != nil {
			return nil, err
		}
	}
	store := memory.New(log)
	if err := s.fill(ctx, store); err != nil {
		return nil, err
	}
	keys, err := (&signer.LocalConfig{KeysRotationPeriod: "6h"}).Open(ctx, store, lifetime, time.Now, log)
	if err != nil {
		return nil, err
	}
	return server.NewServer(ctx, server.Config{
		Issuer: issuer, Storage: store, Signer: keys, Logger: log, IDTokensValidFor: lifetime,
		SkipApprovalScreen: true, Web: server.WebConfig{WebFS: web.FS()},
		// Dex offers sign-out only if sessions are configured.
		SessionConfig: &session.Config{CookieName: "dex_session", AbsoluteLifetime: 24 * time.Hour, ValidIfNotUsedFor: time.Hour},
	})
}

func (s *setup) fill(ctx context.Context, store storage.Storage) error {
	err := store.CreateClient(ctx, storage.Client{
		ID: s.Client.ID, Secret: s.Client.Secret, Name: s.Client.ID,
		RedirectURIs: s.Client.Redirects, PostLogoutRedirectURIs: s.Client.AfterSignOut,
	})
	for _, u := range s.Users {
		hash, hashErr := bcrypt.GenerateFromPassword([]byte(u.Password), 10)
		verified := !u.Unverified
		err = errors.Join(err, hashErr, store.CreatePassword(ctx, storage.Password{
			UserID: u.ID, Email: u.Email, EmailVerified: &verified, Username: u.Name, PreferredUsername: u.Name, Hash: hash, Groups: u.Groups,
		}))
	}
	return errors.Join(err, store.CreateConnector(ctx, storage.Connector{
		ID: connectors.LocalConnector, Type: connectors.LocalConnector, Name: "E-mail",
	}))
}
