package broker

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

func TestLockedStoreNamesItsOwner(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: t.TempDir(), Listen: "none"}
	first, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(cfg, zerolog.Nop())
	if err == nil || !strings.Contains(err.Error(), "in use by process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("second open: %v", err)
	}
	first.Close()
	again, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatalf("after the first process ended: %v", err)
	}
	again.Close()
}

func TestTakenPortIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Open(Config{DataDir: t.TempDir(), Listen: l.Addr().String()}, zerolog.Nop())
	if err == nil || !strings.Contains(err.Error(), "nats.listen "+l.Addr().String()) {
		t.Errorf("open: %v", err)
	}
}

// Fault: another owner's stream or consumer under our name. Result: refused at start, with
// the differences.
func TestForeignStreamIsRefusedAndDifferencesAreNamed(t *testing.T) {
	t.Parallel()
	b, err := Open(Config{DataDir: t.TempDir(), Listen: "none", SyncInterval: "2m"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx := context.Background()
	foreign := jetstream.StreamConfig{Name: EventsStream, Subjects: []string{"something.else"}}
	if _, err := b.js.CreateStream(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	err = b.EnsureTopology(ctx)
	if !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), "subjects: is [something.else], wants [certificate.issued certificate.issued.>]") {
		t.Fatalf("foreign stream: %v", err)
	}
	if err := b.js.DeleteStream(ctx, EventsStream); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}

	// A stream of ours is updated, and the log says what differed.
	var log bytes.Buffer
	b.log = zerolog.New(&log)
	s, err := b.js.Stream(ctx, DeliveriesStream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.AllowAtomicPublish = false // as `nats stream edit` does
	if _, err := b.js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureTopology(ctx); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "allow_atomic: is false, wants true") {
		t.Errorf("log: %s", log.String())
	}

	// A consumer with our name that Certpost did not create.
	if err := b.js.DeleteConsumer(ctx, EventsStream, FanoutConsumer); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.CreateConsumer(ctx, EventsStream, jetstream.ConsumerConfig{Durable: FanoutConsumer, AckPolicy: jetstream.AckNonePolicy}); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureTopology(ctx); !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), "ack_policy") {
		t.Errorf("foreign consumer: %v", err)
	}
}

func TestWaysToAuthenticate(t *testing.T) {
	t.Parallel()
	dir, o := t.TempDir(), newOperator(t)
	caFile, certFile, keyFile := writeTLS(t, dir)
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, _ := user.Seed()
	public, _ := user.PublicKey()
	nkeyFile := filepath.Join(dir, "user.nk")
	if err := os.WriteFile(nkeyFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	tlsConfig := fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, timeout: 30 }", certFile, keyFile, caFile)

	for name, c := range map[string]struct {
		server string
		cfg    Config
		wrong  Config
	}{
		"user and password": {
			server: `authorization { user: certpost, password: "right" }`,
			cfg:    Config{User: "certpost", Password: func() ([]byte, error) { return []byte("right"), nil }},
			wrong:  Config{User: "certpost", Password: func() ([]byte, error) { return []byte("CANARY"), nil }},
		},
		"nkey": {
			server: fmt.Sprintf("authorization { users: [{nkey: %q}] }", public),
			cfg:    Config{NKeyFile: nkeyFile},
			wrong:  Config{},
		},
		"credentials file": {
			server: o.config,
			cfg:    Config{CredentialsFile: o.credentials},
			wrong:  Config{},
		},
		"client certificate": {
			server: tlsConfig,
			cfg:    Config{CAFile: caFile, CertFile: certFile, KeyFile: keyFile},
			wrong:  Config{CAFile: caFile},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := lab.FreeAddress(t)
			lab.NATS(t, addr, c.server)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			c.wrong.URL = "nats://" + addr
			if _, err := Dial(ctx, c.wrong, zerolog.Nop()); err == nil || strings.Contains(err.Error(), "CANARY") {
				t.Errorf("wrong credentials: %v", err)
			}
			c.cfg.URL = "nats://" + addr
			b, err := Dial(ctx, c.cfg, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := b.EnsureTopology(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// An embedded server with a user requires it of other programs and of us.
func TestEmbeddedServerWithAUser(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", SyncInterval: "2m", User: "certpost",
		Password: func() ([]byte, error) { return []byte("right"), nil }}
	b, err := Open(cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.EnsureTopology(context.Background()); err != nil {
		t.Error(err)
	}
	if nc, err := nats.Connect(b.URL()); err == nil {
		nc.Close()
		t.Error("the server accepted a client without credentials")
	}
}

func TestUnreadableFilesAreNamed(t *testing.T) {
	t.Parallel()
	for key, cfg := range map[string]Config{
		"nats.credentials_file": {CredentialsFile: "/nonexistent"},
		"nats.nkey_file":        {NKeyFile: "/nonexistent"},
		"nats.tls.ca_file":      {CAFile: "/nonexistent"},
		"nats.tls.cert_file":    {CertFile: "/nonexistent", KeyFile: "/nonexistent"},
	} {
		cfg.URL = "nats://127.0.0.1:1"
		if _, err := Open(cfg, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// writeTLS writes one certificate that is its own CA, for both sides.
func writeTLS(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, cert, key
}
