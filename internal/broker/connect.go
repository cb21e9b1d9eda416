package broker

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// maxPayload is the embedded server's max_payload, in bytes: room for an event of 1 MiB and
// the headers of a dead letter.
const maxPayload = 4 << 20

// connect returns a connection that retries without limit: an unreachable broker is waited
// for, for a minute or for a day.
func connect(cfg Config, srv *embedded, denied *denials, log zerolog.Logger) (*nats.Conn, error) {
	url := cfg.URL
	var opts []nats.Option
	if srv != nil {
		opts = append(options(cfg, denied, log), srv.seeds.login(Administrator), nats.InProcessServer(srv.srv))
	} else {
		login, err := credentials(cfg, log)
		if err != nil {
			return nil, err
		}
		opts = append(options(cfg, denied, log), login...)
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("NATS at %s: %w", safeURL(cfg.URL), err)
	}
	if !nc.IsConnected() {
		log.Warn().Str("url", safeURL(cfg.URL)).Msg("NATS does not answer; retrying without limit, nothing is delivered until it answers")
	}
	return nc, nil
}

// clientName is the program's client name in NATS, followed by "@" and the host's name.
const clientName = "certpost"

// options are those of every connection; credentials says who connects.
func options(cfg Config, denied *denials, log zerolog.Logger) []nats.Option {
	host, _ := os.Hostname()
	opts := []nats.Option{
		nats.Name(clientName + "@" + host),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.ReconnectJitter(500*time.Millisecond, time.Second),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(5 * time.Second),
		// A publish without a connection must fail at once: one that waits in a
		// buffer for the next connection is not an acknowledged write.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(nc *nats.Conn) {
			if cfg.URL != "" {
				log.Info().Str("url", nc.ConnectedUrlRedacted()).Msg("connected to NATS")
			}
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn().Err(err).Msg("lost the connection to NATS; reconnecting without limit")
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info().Str("url", nc.ConnectedUrlRedacted()).Msg("reconnected to NATS")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrPermissionViolation) {
				if denied.add(err) {
					log.Debug().Err(err).Msg("NATS denies a request, and its caller is told")
					return
				}
				advice := "NATS denies this user permission for a subject"
				if strings.Contains(err.Error(), nats.InboxPrefix) {
					advice += ": set nats.inbox_prefix to the prefix that the user may subscribe to"
				}
				log.Error().Err(err).Msg(advice)
				return
			}
			log.Debug().Err(err).Msg("NATS reports an asynchronous error")
		}),
	}
	opts = append(opts, logReconnectErrors(log))
	if cfg.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(cfg.InboxPrefix))
	}
	return opts
}

// credentials are the options that the configuration gives for logging in and for TLS.
func credentials(cfg Config, log zerolog.Logger) (opts []nats.Option, err error) {
	if cfg.CredentialsFile != "" {
		if err := checkReadable("nats.credentials_file", cfg.CredentialsFile); err != nil {
			return nil, err
		}
		opts = append(opts, nats.UserCredentials(cfg.CredentialsFile))
	}
	if cfg.NKeyFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(cfg.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("nats.nkey_file %s: not a readable NKey seed", cfg.NKeyFile)
		}
		opts = append(opts, nkey)
	}
	if cfg.User != "" {
		opts = append(opts, nats.UserInfoHandler(func() (string, string) {
			if cfg.Password == nil {
				return cfg.User, ""
			}
			pw, err := cfg.Password()
			if err != nil {
				log.Error().Err(err).Msg("nats.password cannot be read; connecting without one")
				return cfg.User, ""
			}
			return cfg.User, string(pw)
		}))
	}
	if cfg.CAFile != "" {
		if err := checkReadable("nats.tls.ca_file", cfg.CAFile); err != nil {
			return nil, err
		}
		opts = append(opts, nats.RootCAs(cfg.CAFile))
	}
	if cfg.CertFile != "" || cfg.KeyFile != "" {
		if err := errors.Join(checkReadable("nats.tls.cert_file", cfg.CertFile), checkReadable("nats.tls.key_file", cfg.KeyFile)); err != nil {
			return nil, err
		}
		opts = append(opts, nats.ClientCert(cfg.CertFile, cfg.KeyFile))
	}
	return opts, nil
}

// logReconnectErrors logs failed reconnects, at most one line a minute, so that a server
// that is down for a day does not fill the log.
func logReconnectErrors(log zerolog.Logger) nats.Option {
	var mu sync.Mutex
	var last time.Time
	return nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < time.Minute {
			return
		}
		last = time.Now()
		log.Warn().Err(err).Msg("NATS still does not answer; retrying")
	})
}

func checkReadable(key, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return f.Close()
}

// safeURL returns the address list without user, password or token.
func safeURL(list string) string {
	parts := strings.Split(list, ",")
	for i, p := range parts {
		u, err := url.Parse(strings.TrimSpace(p))
		if err != nil {
			parts[i] = "(not a URL)"
			continue
		}
		u.User = nil
		parts[i] = u.String()
	}
	return strings.Join(parts, ",")
}

// natsLog passes the embedded server's log to zerolog and keeps the last error, which
// says why the server did not start.
type natsLog struct {
	log       zerolog.Logger
	mu        sync.Mutex
	lastError string
}

func (l *natsLog) reason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lastError == "" {
		return "no reason given"
	}
	return l.lastError
}

func (l *natsLog) recordError(format string, v []any) string {
	text := fmt.Sprintf(format, v...)
	l.mu.Lock()
	l.lastError = text
	l.mu.Unlock()
	return text
}

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debug().Msgf(format, v...) }
func (l *natsLog) Warnf(format string, v ...any)   { l.log.Warn().Msgf(format, v...) }
func (l *natsLog) Errorf(format string, v ...any)  { l.log.Error().Msg(l.recordError(format, v)) }
func (l *natsLog) Fatalf(format string, v ...any)  { l.log.Error().Msg(l.recordError(format, v)) }
func (l *natsLog) Debugf(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }
func (l *natsLog) Tracef(format string, v ...any)  { l.log.Trace().Msgf(format, v...) }
