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

// loginTimeout is how long a client of the embedded server may take to log in, and for the TLS
// handshake before. The server's own limit of 2 seconds is too short for a busy machine.
const loginTimeout = 10 * time.Second

// syncAlways is the SyncInterval of a store that flushes every write to disk.
const syncAlways = "always"

// defaultMaxStore limits the embedded store, in bytes. It is explicit because the server's
// own default is three quarters of the free disk at start.
const defaultMaxStore = 10 << 30

func (c Config) listen() string {
	if c.Listen == "" {
		return defaultListen
	}
	return c.Listen
}

// embedded is a NATS server in this process, and the lock that keeps a second process off
// its store: nats-server does not lock it, and two servers on one directory would both
// acknowledge.
type embedded struct {
	srv     *server.Server
	lock    *flock.Flock
	seeds   seeds
	listens bool // accepts connections of other programs
}

func startEmbedded(cfg Config, log zerolog.Logger) (*embedded, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", cfg.DataDir, err)
	}
	e := &embedded{listens: cfg.listen() != "none"}
	var err error
	if e.lock, err = lockStore(cfg.DataDir); err != nil {
		return nil, err
	}
	if !cfg.Restoring {
		if err := checkRestored(cfg.DataDir); err != nil {
			e.stop()
			return nil, err
		}
	}
	if err := checkRoom(cfg.DataDir); err != nil {
		e.stop()
		return nil, err
	}
	if e.seeds, err = openSeeds(cfg.DataDir, log); err != nil {
		e.stop()
		return nil, err
	}
	if cfg.Anonymous {
		log.Warn().Str("listen", cfg.listen()).Msg("nats.anonymous is true: every process on this machine may read certificates, forge records and delete streams in the embedded NATS")
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
	serverLogger := &natsLog{log: log.With().Str("component", "nats-server").Logger()}
	e.srv.SetLogger(serverLogger, false, false)
	e.srv.Start()
	if !e.srv.ReadyForConnections(30*time.Second) || !e.srv.JetStreamEnabled() {
		e.stop()
		return nil, fmt.Errorf("embedded NATS did not start on %s below %s: %s", cfg.listen(), cfg.DataDir, serverLogger.reason())
	}
	return e, nil
}

// The room that a start requires, in pieces: enough for the largest event, its deliveries
// and a dead letter.
const (
	roomPieces = 32
	roomPiece  = 256 << 10 // bytes
)

// checkRoom writes some files, closes and removes them, to find out whether the disk has
// room: on a full disk the server starts, and fails some seconds later. Free blocks would
// say nothing of quotas and limits.
func checkRoom(dir string) (err error) {
	probe := filepath.Join(dir, "room")
	// It is there if a process was killed meanwhile.
	if err := errors.Join(os.RemoveAll(probe), os.Mkdir(probe, 0o700)); err != nil {
		return noRoom(dir, err)
	}
	defer func() {
		if rerr := os.RemoveAll(probe); rerr != nil && err == nil {
			err = noRoom(dir, rerr)
		}
	}()
	piece := make([]byte, roomPiece)
	for i := range roomPieces {
		if err := os.WriteFile(filepath.Join(probe, strconv.Itoa(i)), piece, 0o600); err != nil {
			return noRoom(dir, err)
		}
	}
	return nil
}

func noRoom(dir string, err error) error {
	if perr := (*os.PathError)(nil); errors.As(err, &perr) {
		err = perr.Err // the path is that of a file that is already gone
	}
	return fmt.Errorf("data_dir %s: %w (%d MiB could not be written: %w): make room on the disk or repair it; all that was acknowledged is stored",
		dir, ErrStoreFailed, roomPieces*roomPiece>>20, err)
}

// serverOptions builds configuration text and parses it, because only then the server
// checks and completes its options itself.
func (e *embedded) serverOptions(cfg Config) (*server.Options, error) {
	sync := cfg.SyncInterval
	if sync == "" {
		sync = syncAlways
	}
	maxStore := cfg.MaxStore
	if maxStore == 0 {
		maxStore = defaultMaxStore
	}
	dir, err := filepath.Abs(filepath.Join(cfg.DataDir, natsDir))
	if err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", cfg.DataDir, err)
	}
	text := fmt.Sprintf("server_name: certpost\nmax_payload: %d\njetstream { store_dir: %s, sync_interval: %s, max_memory_store: 64MB, max_file_store: %d }\n",
		maxPayload, strconv.Quote(dir), strconv.Quote(sync), maxStore) + cfg.accountsText(e.seeds)
	opts := &server.Options{}
	if err := opts.ProcessConfigString(text); err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	opts.NoSigs = true
	opts.DontListen = !e.listens
	if e.listens {
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
	if cfg.ServerTLS != nil {
		opts.TLS, opts.TLSConfig, opts.TLSTimeout = true, cfg.ServerTLS, loginTimeout.Seconds()
	}
	opts.AuthTimeout = loginTimeout.Seconds()
	if err := cfg.finishUsers(opts, e.seeds); err != nil {
		return nil, err
	}
	return opts, nil
}

// probeListen binds the address for a moment to detect a port in use: the server reports
// that only in its log, and stops the process.
func probeListen(addr string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return fmt.Errorf("nats.listen %s: %w: another program uses the port; stop it, choose another nats.listen, or set nats.url to that server", addr, unwrapListen(err))
	}
	return l.Close()
}

func unwrapListen(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// StoreLookEvery is the interval between two checks of the store.
const StoreLookEvery = time.Second

// ErrStoreFailed says that the embedded store could not be written. The server then
// acknowledges no message and does not retry until it is restarted, whatever the state of
// the disk.
var ErrStoreFailed = errors.New("the embedded store cannot be written")

// failed returns ErrStoreFailed once a file of the store could not be written.
func (e *embedded) failed() error {
	health := e.srv.Healthz(&server.HealthzOptions{Details: true})
	for _, found := range health.Errors {
		// The server gives no other sign of it.
		if _, why, ok := strings.Cut(found.Error, " write error: "); ok {
			return fmt.Errorf("%w (stream %s: %s): make room on the disk or repair it, then restart Certpost; all that was acknowledged is stored", ErrStoreFailed, found.Stream, why)
		}
	}
	return nil
}

func (e *embedded) url() string {
	if !e.listens {
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

// lockStore locks the data directory and writes this process's id beside the lock, so that
// a second process can name it.
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
