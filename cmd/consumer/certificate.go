package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/secrets"
)

const (
	// certificateInterval is how often the files are checked, and certificateRetry how
	// often files that could not be used are tried again: the passphrase may be stored
	// later than the file.
	certificateInterval = 2 * time.Second
	certificateRetry    = 30 * time.Second
)

// A certificate's use, for logs and errors: the section of the configuration, and its server.
type certificateUse struct{ section, server string }

var (
	dashboardTLS = certificateUse{"http.tls", "the dashboard"}
	embeddedNATS = certificateUse{"nats.tls", "the embedded NATS"}
)

// serverCertificate is the certificate of one of our servers, as its files are now. If new files
// cannot be used, or have an expired certificate while the one in use has not expired,
// the one in use stays.
type serverCertificate struct {
	use   certificateUse
	cfg   ServerTLSConfig
	store *secrets.Store
	log   zerolog.Logger
	used  [sha256.Size]byte // the files that were used or tried last; only watch uses it

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu
	failure error            // of the latest files; guarded by mu
}

// openCertificate reads the files for the first time. It returns nil, nil without TLS.
func openCertificate(ctx context.Context, use certificateUse, cfg ServerTLSConfig, store *secrets.Store, log zerolog.Logger) (*serverCertificate, error) {
	if !cfg.on() {
		return nil, nil
	}
	c := &serverCertificate{use: use, cfg: cfg, store: store, log: log}
	files, err := c.read()
	if err == nil {
		c.used = digest(files)
		c.current, err = c.parse(ctx, files)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", use.section, err)
	}
	return c, nil
}

// read returns the content of the files.
func (c *serverCertificate) read() (files [][]byte, err error) {
	paths := []string{c.cfg.CertFile, c.cfg.KeyFile}
	if c.cfg.PKCS12File != "" {
		paths = []string{c.cfg.PKCS12File}
	}
	for _, path := range paths {
		data, err := readFile(path)
		if err != nil {
			return nil, fmt.Errorf("%s %w", path, config.Unreadable(err))
		}
		files = append(files, data)
	}
	return files, nil
}

func (c *serverCertificate) parse(ctx context.Context, files [][]byte) (*tls.Certificate, error) {
	if c.cfg.PKCS12File != "" {
		return c.parsePKCS12(ctx, files[0])
	}
	pair, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		// The standard library's text quotes neither file.
		return nil, fmt.Errorf("%s and %s cannot be used: %w", c.cfg.CertFile, c.cfg.KeyFile, err)
	}
	return &pair, nil
}

func (c *serverCertificate) parsePKCS12(ctx context.Context, file []byte) (*tls.Certificate, error) {
	passphrase, err := reader(c.store, c.cfg.PKCS12Passphrase)(ctx)
	if err != nil {
		return nil, fmt.Errorf("pkcs12_passphrase: %w", err)
	}
	key, leaf, chain, err := pkcs12.DecodeChain(file, passphrase)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return nil, fmt.Errorf("%s cannot be opened with the passphrase of %v", c.cfg.PKCS12File, c.cfg.PKCS12Passphrase)
	case err != nil:
		return nil, fmt.Errorf("%s is not a PKCS#12 file with one certificate and its key", c.cfg.PKCS12File)
	}
	pair := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, ca := range chain {
		pair.Certificate = append(pair.Certificate, ca.Raw)
	}
	if !keyFits(key, leaf) {
		return nil, fmt.Errorf("%s: the private key does not match the certificate", c.cfg.PKCS12File)
	}
	return pair, nil
}

func keyFits(key any, leaf *x509.Certificate) bool {
	private, ok := key.(interface{ Public() crypto.PublicKey })
	if !ok {
		return false
	}
	public, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(leaf.PublicKey)
}

// get is tls.Config.GetCertificate.
func (c *serverCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, nil
}

// watch checks the files until the context ends. Like target definitions they are
// polled, and used once two reads in a row are the same, because a key and a
// certificate are never replaced at the same moment.
func (c *serverCertificate) watch(ctx context.Context) {
	ticker := time.NewTicker(certificateInterval)
	defer ticker.Stop()
	var seen [sha256.Size]byte
	var tried time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		files, err := c.read()
		now := digest(files)
		if err != nil {
			now = sha256.Sum256([]byte(err.Error()))
		}
		settled := now == seen
		seen = now
		again := c.failed() != nil && time.Since(tried) >= certificateRetry
		if !settled || now == c.used && !again {
			continue
		}
		c.used, tried = now, time.Now()
		if err == nil {
			err = c.renew(ctx, files)
		}
		c.report(err)
	}
}

// renew starts to use the certificate of the files.
func (c *serverCertificate) renew(ctx context.Context, files [][]byte) error {
	next, err := c.parse(ctx, files)
	if err != nil {
		return err
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.After(next.Leaf.NotAfter) && now.Before(c.current.Leaf.NotAfter) {
		return fmt.Errorf("the new certificate expired %s", when(next.Leaf.NotAfter))
	}
	c.current = next
	return nil
}

// report logs the result of new files, each error once.
func (c *serverCertificate) report(err error) {
	c.mu.Lock()
	before := c.failure
	c.failure = err
	until := c.current.Leaf.NotAfter
	c.mu.Unlock()
	switch {
	case err == nil:
		c.log.Info().Time("not_after", until).Msg("the certificate of " + c.use.server + " was reloaded")
	case before == nil || before.Error() != err.Error():
		c.log.Error().Err(err).Time("not_after", until).Msg("the new certificate of " + c.use.server + " cannot be used; the old one stays in use")
	}
}

func (c *serverCertificate) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// leaf is the certificate in use.
func (c *serverCertificate) leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current.Leaf
}

// health returns what the operator should fix: nil, or why the certificate is degraded or, once it has
// expired, unhealthy.
func (c *serverCertificate) health(now time.Time, warning time.Duration) error {
	failure, problem := c.failed(), validity(c.leaf(), now, warning)
	switch {
	case failure == nil:
		return problem
	case problem == nil:
		return fmt.Errorf("the new files cannot be used: %w", failure)
	}
	return fmt.Errorf("%w, and the new files cannot be used: %w", problem, failure)
}

// check is health as a line of /healthz.
func (c *serverCertificate) check(name string, now time.Time, warning time.Duration) check {
	bad := degraded
	if expiry(c.leaf().NotAfter, now, warning) == unhealthy {
		bad = unhealthy
	}
	line := verdictOn(name, "tls", bad, c.health(now, warning))
	if name != "tls" {
		line.Tags = []string{name, "tls"}
	}
	return line
}

// validity returns why a certificate is not valid, or that it expires within the warning.
func validity(leaf *x509.Certificate, now time.Time, warning time.Duration) error {
	switch {
	case now.After(leaf.NotAfter):
		return errors.New("the certificate expired " + when(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return errors.New("the certificate is not valid before " + when(leaf.NotBefore))
	case leaf.NotAfter.Sub(now) < warning:
		return errors.New("the certificate expires " + when(leaf.NotAfter))
	}
	return nil
}

func digest(files [][]byte) [sha256.Size]byte {
	h := sha256.New()
	for _, data := range files {
		sum := sha256.Sum256(data)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}
