package mailhost

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Deployment says where a certificate belongs on this host, and what makes it take
// effect. Its fields are the settings of a target of type postfix, dovecot or file.
type Deployment struct {
	// CertPath and KeyPath are absolute. If both are the same file, it holds the key, the
	// leaf and the chain, in this order, and is replaced in one rename: no reader ever sees
	// a certificate without its key. Two files have a moment between their renames.
	CertPath, KeyPath string
	// ChainPath, if set, is the file of the issuers, which CertPath then lacks.
	ChainPath string
	// CertMode and KeyMode are the permissions; a combined file has KeyMode, the chain
	// CertMode. Zero means 0644 and 0600.
	CertMode, KeyMode Mode
	// Owner and Group are names or numbers; KeyOwner and KeyGroup those of the key and of a
	// combined file, by default Owner and Group. Empty: as the file was, or as this process.
	Owner, Group, KeyOwner, KeyGroup string
	// ValidateCommand runs before any file is replaced, with the paths of the new files in
	// CERTPOST_NEW_CERT, CERTPOST_NEW_KEY and CERTPOST_NEW_CHAIN. ReloadCommand runs after
	// all are. Empty: none.
	ValidateCommand, ReloadCommand Command
	// Signal, if set, gets SIGHUP instead of a ReloadCommand.
	Signal Daemon
	// SNI, if set, is the table of Postfix that names these files. Its database is built before the
	// reload.
	SNI SNIMap
	// LocalName is the name of the block in Dovecot's configuration that names these files; "" for
	// none. It is the ServerName by default.
	LocalName string
	// CommandTimeout is for each of them; zero means 30 s.
	CommandTimeout time.Duration
	// BackupRetention is how many former versions are kept beside the files.
	BackupRetention int
	// Verify says how the result is checked. Without endpoints it is not.
	Verify Verification
}

// Verification says where the program serves the certificate.
type Verification struct {
	Endpoints []Endpoint
	// ServerName is sent as SNI, and the certificate must be valid for it. Empty: neither.
	ServerName string
	// Roots, if set, are what the served chain must lead to.
	Roots *x509.CertPool
	// Timeout is for one connection, Attempts the number of connections to an endpoint, with
	// growing pauses, before the certificate counts as not served. Zero means 10 s and 5.
	Timeout  time.Duration
	Attempts int
	// Backoff is the pause after the first connection, which doubles with each up to
	// MaxBackoff. Zero means 250 ms and 5 s.
	Backoff, MaxBackoff time.Duration
}

// Endpoint is one address at which the certificate is served.
type Endpoint struct {
	Address  string   // host:port
	Protocol Protocol // by port if empty: see ProtocolOf
}

// Mode is a file's permissions, octal in text: 0640.
type Mode fs.FileMode

// UnmarshalYAML reads the octal text.
func (m *Mode) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		return errors.New("want permissions in octal, such as 0640")
	}
	*m = Mode(n)
	return nil
}

// String returns the mode in octal, with a leading zero.
func (m Mode) String() string { return fmt.Sprintf("%#o", uint32(m)) }

// The defaults, except for paths and commands.
const (
	defaultCertMode       = Mode(0o644)
	defaultKeyMode        = Mode(0o600)
	defaultCommandTimeout = 30 * time.Second
	defaultVerifyTimeout  = 10 * time.Second
	defaultAttempts       = 5
	defaultBackoff        = 250 * time.Millisecond
	defaultMaxBackoff     = 5 * time.Second
)

// Postfix returns the defaults of a target of type postfix.
func Postfix() Deployment {
	return Deployment{CertPath: "/etc/postfix/certs/cert.pem", KeyPath: "/etc/postfix/certs/key.pem",
		ValidateCommand: Command{"postfix", "check"}, ReloadCommand: Command{"postfix", "reload"}, BackupRetention: 3}
}

// Dovecot returns the defaults of a target of type dovecot.
func Dovecot() Deployment {
	return Deployment{CertPath: "/etc/dovecot/certs/cert.pem", KeyPath: "/etc/dovecot/certs/key.pem",
		ValidateCommand: Command{"doveconf", "-n"}, ReloadCommand: Command{"doveadm", "reload"}, BackupRetention: 3}
}

// Files returns the defaults of a target of type file: it has no paths and no commands.
func Files() Deployment { return Deployment{BackupRetention: 3} }

// WithSignal returns the deployment with SIGHUP instead of the reload command; pidFile "" means
// the usual one. Only Postfix and Dovecot are known.
func (d Deployment) WithSignal(program, pidFile string) Deployment {
	d.ReloadCommand = Command{}
	if d.Signal = postfixMaster(); program == "dovecot" {
		d.Signal = dovecotMaster()
	}
	if pidFile != "" {
		d.Signal.PIDFile = pidFile
	}
	return d
}

// WithDefaults fills in what is zero.
func (d Deployment) WithDefaults() Deployment {
	orDefault(&d.Verify.ServerName, d.LocalName)
	orDefault(&d.CertMode, defaultCertMode)
	orDefault(&d.KeyMode, defaultKeyMode)
	orDefault(&d.KeyOwner, d.Owner)
	orDefault(&d.KeyGroup, d.Group)
	orDefault(&d.CommandTimeout, defaultCommandTimeout)
	orDefault(&d.Verify.Timeout, defaultVerifyTimeout)
	orDefault(&d.Verify.Attempts, defaultAttempts)
	orDefault(&d.Verify.Backoff, defaultBackoff)
	orDefault(&d.Verify.MaxBackoff, defaultMaxBackoff)
	return d
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Problem is what is wrong with one setting.
type Problem struct {
	Key     string // in the target's definition, such as key_mode
	Message string
}

// Check returns what is wrong with the settings, all of it, without looking at the host.
func (d Deployment) Check() error {
	var all []error
	for _, p := range d.Problems() {
		all = append(all, errors.New(p.Key+" "+p.Message))
	}
	return errors.Join(all...)
}

// Problems is Check by setting.
func (d Deployment) Problems() (found []Problem) {
	d = d.WithDefaults()
	problem := func(key, text string, args ...any) { found = append(found, Problem{key, fmt.Sprintf(text, args...)}) }
	for _, p := range []struct{ key, path string }{{"cert_path", d.CertPath}, {"key_path", d.KeyPath}, {"chain_path", d.ChainPath}} {
		switch {
		case p.path == "" && p.key == "chain_path":
		case p.path == "":
			problem(p.key, "is missing")
		case !filepath.IsAbs(p.path) || filepath.Clean(p.path) != p.path:
			problem(p.key, "%q must be absolute, without . or .. or a slash at its end", legible.Clean(p.path, 300))
		}
	}
	if d.ChainPath != "" && (d.ChainPath == d.CertPath || d.ChainPath == d.KeyPath) {
		problem("chain_path", "is the same file as cert_path or key_path; leave it empty, and the chain follows the leaf")
	}
	if !d.Signal.IsZero() && (!filepath.IsAbs(d.Signal.PIDFile) || filepath.Clean(d.Signal.PIDFile) != d.Signal.PIDFile) {
		problem("pid_file", "%q must be absolute, without . or .. or a slash at its end", legible.Clean(d.Signal.PIDFile, 300))
	}
	if text := d.SNI.problem(); d.SNI.Table != "" && text != "" {
		problem("sni_map", "%s", text)
	}
	if d.LocalName != "" && d.Verify.ServerName != d.LocalName {
		problem("post_deploy_verify.server_name", "%q is not local_name, %q: leave it out", legible.Clean(d.Verify.ServerName, 255), legible.Clean(d.LocalName, 255))
	}
	if d.CertMode&^0o777 != 0 || d.CertMode&0o022 != 0 || d.CertMode&0o400 == 0 {
		problem("cert_mode", "%v must let the owner read, and only the owner write", d.CertMode)
	}
	if d.KeyMode&^0o777 != 0 || d.KeyMode&0o027 != 0 || d.KeyMode&0o400 == 0 {
		problem("key_mode", "%v must let the owner read, at most the group read too, and nobody else; use key_group with 0640", d.KeyMode)
	}
	if d.CommandTimeout < 0 {
		problem("command_timeout", "is negative")
	}
	if d.BackupRetention < 0 || d.BackupRetention > maxRetention {
		problem("backup_retention", "%d must be 0 to %d", d.BackupRetention, maxRetention)
	}
	if d.Verify.Timeout < 0 {
		problem("post_deploy_verify.timeout", "is negative")
	}
	if d.Verify.Attempts < 0 || d.Verify.Attempts > maxAttempts {
		problem("post_deploy_verify.attempts", "%d must be 1 to %d", d.Verify.Attempts, maxAttempts)
	}
	for _, e := range d.Verify.Endpoints {
		if p, ok := e.problem(); ok {
			found = append(found, p)
		}
		if d.LocalName != "" && e.protocol() == LMTP {
			problem("local_name", "does not apply to LMTP, where Dovecot serves the default certificate: leave out the endpoint %s", legible.Clean(e.Address, 255))
		}
	}
	return found
}

const (
	maxRetention = 100
	maxAttempts  = 20
)

// Longest is the longest time that a deployment takes from Claim to its end: validation, a
// reload and a verification (two with several files, see serve), and the same once more for
// the rollback.
func (d Deployment) Longest() time.Duration {
	d = d.WithDefaults()
	command := d.CommandTimeout + killDelay
	endpoint := time.Duration(0)
	for attempt := range d.Verify.Attempts {
		endpoint += 2*d.Verify.Timeout + 2*d.Verify.pause(attempt) // two connections (see probe), and jitter
	}
	rounds := time.Duration(2)
	if d.CertPath != d.KeyPath || d.ChainPath != "" {
		rounds++
	}
	const files = 30 * time.Second // writing and syncing a few kilobytes on a slow disk
	reload := command
	if d.SNI.Table != "" {
		reload += command
	}
	return command + rounds*(reload+endpoint*time.Duration(len(d.Verify.Endpoints))) + files
}
