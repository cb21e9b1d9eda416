package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
)

const defaultListen = "127.0.0.1:4222"

// syncAlways is the SyncInterval of a store that flushes every write to disk.
const syncAlways = "always"

// defaultMaxStore bounds the embedded store. An explicit limit, because the
// server's own default is three quarters of the free disk at start.
const defaultMaxStore = 10 << 30

func (c Config) listen() string {
	if c.Listen == "" {
		return defaultListen
	}
	return c.Listen
}

// embedded is a NATS server in this process, and the lock that keeps a second
// process off its store: nats-server takes none, and two servers on one
// directory would both acknowledge.
type embedded struct {
	srv  *server.Server
	lock *flock.Flock
	open bool // listens for other programs
}

func startEmbedded(cfg Config, log zerolog.Logger) (*embedded, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", cfg.DataDir, err)
	}
	e := &embedded{open: cfg.listen() != "none"}
	var err error
	if e.lock, err = lockStore(cfg.DataDir); err != nil {
		return nil, err
	}
	opts, err := e.serverOptions(cfg)
	if err != nil {
		e.stop()
		return nil, err
	}
	if e.srv, err = server.NewServer(opts); err != nil {
		e.stop()
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	failed := &serverLog{log: log.With().Str("component", "nats-server").Logger()}
	e.srv.SetLogger(failed, false, false)
	e.srv.Start()
	if !e.srv.ReadyForConnections(30*time.Second) || !e.srv.JetStreamEnabled() {
		e.stop()
		return nil, fmt.Errorf("embedded NATS did not start on %s below %s: %s", cfg.listen(), cfg.DataDir, failed.last())
	}
	return e, nil
}

// serverOptions goes through configuration text, the only form in which the
// server checks and completes its options by itself.
func (e *embedded) serverOptions(cfg Config) (*server.Options, error) {
	sync := cfg.SyncInterval
	if sync == "" {
		sync = syncAlways
	}
	maxStore := cfg.MaxStore
	if maxStore == 0 {
		maxStore = defaultMaxStore
	}
	dir, err := filepath.Abs(filepath.Join(cfg.DataDir, "nats"))
	if err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", cfg.DataDir, err)
	}
	text := fmt.Sprintf("server_name: certpost\nmax_payload: %d\njetstream { store_dir: %s, sync_interval: %s, max_memory_store: 64MB, max_file_store: %d }\n",
		maxPayload, strconv.Quote(dir), strconv.Quote(sync), maxStore)
	opts := &server.Options{}
	if err := opts.ProcessConfigString(text); err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	opts.NoSigs = true
	opts.DontListen = !e.open
	if e.open {
		if err := probeListen(cfg.listen()); err != nil {
			return nil, err
		}
		host, port, err := net.SplitHostPort(cfg.listen())
		if err != nil {
			return nil, fmt.Errorf("nats.listen %q: want host:port", cfg.listen())
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("nats.listen %q: the port is not a number", cfg.listen())
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	if cfg.User != "" {
		opts.Username = cfg.User
		if cfg.Password != nil {
			pw, err := cfg.Password()
			if err != nil {
				return nil, fmt.Errorf("nats.password: %w", err)
			}
			opts.Password = string(pw)
			clear(pw)
		}
	}
	return opts, nil
}

// probeListen binds the address for a moment: the server itself reports a taken
// port only to its log, and stops the process.
func probeListen(addr string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return fmt.Errorf("nats.listen %s: %w: another program has the port; stop it, choose another nats.listen, or name that server as nats.url", addr, unwrapListen(err))
	}
	return l.Close()
}

func unwrapListen(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// StoreLookEvery is the time between two looks at the store.
const StoreLookEvery = 5 * time.Second

// ErrStoreFailed says that the embedded store could not be written. The server
// answers no publisher then and does not try again before it is started anew,
// whatever has become of the disk.
var ErrStoreFailed = errors.New("the embedded store cannot be written")

// failed returns ErrStoreFailed once a file of the store could not be written.
func (e *embedded) failed() error {
	health := e.srv.Healthz(&server.HealthzOptions{Details: true})
	for _, found := range health.Errors {
		// The server has no other mark for it.
		if _, why, ok := strings.Cut(found.Error, " write error: "); ok {
			return fmt.Errorf("%w (stream %s: %s): make room on the disk or mend it, then start Certpost again; what was acknowledged is there", ErrStoreFailed, found.Stream, why)
		}
	}
	return nil
}

func (e *embedded) url() string {
	if !e.open {
		return "in-process"
	}
	return e.srv.ClientURL()
}

func (e *embedded) stop() {
	if e.srv != nil {
		e.srv.Shutdown()
		e.srv.WaitForShutdown()
	}
	if e.lock != nil {
		e.lock.Unlock()
	}
}

// lockStore takes the lock on the data directory and writes our pid beside it,
// for the next one to name.
func lockStore(dir string) (*flock.Flock, error) {
	path := filepath.Join(dir, "certpost.lock")
	pidPath := filepath.Join(dir, "certpost.pid")
	lock := flock.New(path)
	got, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !got {
		owner := "another process"
		if pid, err := os.ReadFile(pidPath); err == nil {
			owner = "process " + strings.TrimSpace(string(pid))
		}
		return nil, fmt.Errorf("data_dir %s is in use by %s (lock %s): stop it, or choose another data_dir", dir, owner, path)
	}
	if err := os.WriteFile(pidPath, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		lock.Unlock()
		return nil, fmt.Errorf("data_dir %s: %w", dir, err)
	}
	return lock, nil
}
