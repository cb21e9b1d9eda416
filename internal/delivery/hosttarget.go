package delivery

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/inputfile"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailhost"
	"github.com/certpost/certpost/internal/payload"
)

// The types of targets.
const (
	typeSMTP    = "smtp"
	typePostfix = "postfix"
	typeDovecot = "dovecot"
	typeFile    = "file"
)

// The values of the key reload.
const (
	reloadCommand = "command"
	reloadSignal  = "signal"
)

// HostKeys are the keys of targets of the types postfix, dovecot and file: files on a mail
// host, and the program that reads them. docs/mail-hosts.md says what a deployment does.
type HostKeys struct {
	// CertPath is the file of the leaf, followed by its chain. Default: for postfix
	// /etc/postfix/certs/cert.pem, for dovecot /etc/dovecot/certs/cert.pem; a target of type
	// file has none and needs one.
	CertPath string `yaml:"cert_path"`
	// KeyPath is the file of the private key. Equal to cert_path it is one file with key, leaf
	// and chain, which is replaced at once: the recommended form. Default: for postfix
	// /etc/postfix/certs/key.pem, for dovecot /etc/dovecot/certs/key.pem; a target of type file
	// has none and needs one.
	KeyPath string `yaml:"key_path"`
	// ChainPath is a file for the issuers. Default: none; the chain follows the leaf.
	ChainPath string `yaml:"chain_path"`
	// CertMode are the permissions of certificate and chain, octal and in quotes. Default:
	// "0644".
	CertMode mailhost.Mode `yaml:"cert_mode"`
	// KeyMode are the permissions of the key and of a file that has it; at most the group may
	// read it. Default: "0600".
	KeyMode mailhost.Mode `yaml:"key_mode"`
	// Owner is the user that owns the files, by name or number. Default: as the file was, or the
	// user of Certpost.
	Owner string `yaml:"owner"`
	// Group is the files' group, likewise.
	Group string `yaml:"group"`
	// KeyOwner is the owner of the key's file. Default: owner.
	KeyOwner string `yaml:"key_owner"`
	// KeyGroup is the group of the key's file. Default: group.
	KeyGroup string `yaml:"key_group"`
	// ValidateCommand runs before a file is replaced. It is split into words, or is a list of
	// words, and is never given to a shell. An empty list is none. Default: for postfix
	// postfix check, for dovecot doveconf -n, for file none.
	ValidateCommand mailhost.Command `yaml:"validate_command"`
	// ReloadCommand makes the program read the files, likewise. Default: for postfix postfix
	// reload, for dovecot doveadm reload, for file none.
	ReloadCommand mailhost.Command `yaml:"reload_command"`
	// Reload says how the program is told: command runs reload_command, signal sends SIGHUP to the
	// master process, for which a process that is not root needs CAP_KILL only. Default: command.
	Reload string `yaml:"reload" enum:"command,signal"`
	// PIDFile has the number of that process, which must be that of Postfix or Dovecot. If Certpost
	// may not read the file, it is the only such process that root runs. Default: for postfix
	// /var/spool/postfix/pid/master.pid, for dovecot /run/dovecot/master.pid.
	PIDFile string `yaml:"pid_file"`
	// SNIMap is the table in tls_server_sni_maps that names these files, for one of several names on a
	// host. Its database is built after the files are replaced, and its mode is checked: it has copies
	// of the keys. Example: hash:/etc/postfix/sni.map.
	SNIMap string `yaml:"sni_map"`
	// SNIMapCommand builds the database. Default: postmap -F and the table.
	SNIMapCommand mailhost.Command `yaml:"sni_map_command"`
	// LocalName is the name of the block local_name in Dovecot's configuration that names these
	// files, for one of several names on a host; doveconf is asked whether it does. It is also the
	// default of server_name. Example: mx2.example.com.
	LocalName string `yaml:"local_name"`
	// CommandTimeout is the time limit of each command. Default: 30s.
	CommandTimeout time.Duration `yaml:"command_timeout" min:"0s" max:"10m"`
	// BackupRetention is how many former versions of the files are kept beside them, for
	// certpost deliveries rollback. Default: 3.
	BackupRetention *int `yaml:"backup_retention" min:"0" max:"100"`
	// PostDeployVerify says where the program serves the certificate. It is asked after each
	// deployment, and if it does not serve it, the former files are put back.
	PostDeployVerify HostVerify `yaml:"post_deploy_verify"`
	// DANE says what happens to a certificate that does not fit the TLSA records of its names
	// (_25._tcp.NAME), or fits them for less than two TTLs: hold waits, warn deploys it with a warning,
	// off does not ask DNS. Default: hold; off for targets of type file that no endpoint with protocol
	// smtp verifies.
	DANE string `yaml:"dane" enum:"hold,warn,off"`
	// DANENames are the names of this host in MX records. Default: those in the certificate without
	// wildcards, server_name, and host if it has a dot. Example: [mx1.example.com].
	DANENames []string `yaml:"dane_names"`
}

// HostVerify is the section post_deploy_verify of a target.
type HostVerify struct {
	// Enabled switches the verification. Default: true if there is an endpoint.
	Enabled *bool `yaml:"enabled"`
	// Endpoint is the address of a server, host:port. Example: 127.0.0.1:25.
	Endpoint string `yaml:"endpoint"`
	// Protocol is how TLS begins there: smtp, lmtp, imap, pop3 and sieve by STARTTLS, tls at
	// once. Default: by port.
	Protocol string `yaml:"protocol" enum:"smtp,lmtp,imap,pop3,sieve,tls"`
	// Endpoints are further addresses, or all of them: host:port, or protocol://host:port.
	// Example: ["imap://127.0.0.1:143", "127.0.0.1:993"].
	Endpoints []string `yaml:"endpoints"`
	// ServerName is the name that clients use (SNI); the certificate must be valid for it.
	ServerName string `yaml:"server_name"`
	// CAFile is a PEM file with the CAs that the served chain must lead to. Default: the
	// chain is compared, and leads anywhere.
	CAFile string `yaml:"ca_file"`
	// Timeout is the time limit of one connection. Default: 10s.
	Timeout time.Duration `yaml:"timeout" min:"0s" max:"5m"`
	// Attempts is the number of connections to an endpoint before the certificate counts as not
	// served. Default: 5.
	Attempts int `yaml:"attempts" min:"0" max:"20"`
	// Backoff is the pause after the first of them, which doubles with each. Default: 250ms.
	Backoff time.Duration `yaml:"backoff" min:"0s" max:"1m"`
	// MaxBackoff is the longest pause. Default: 5s.
	MaxBackoff time.Duration `yaml:"max_backoff" min:"0s" max:"5m"`
}

// onHost reports whether the target is files on a mail host, not a mail.
func (t *Target) onHost() bool { return slices.Contains(hostTypes, t.Type) }

var hostTypes = []string{typePostfix, typeDovecot, typeFile}

// keysByType are the keys that targets of a type may have: those for all types, those of mails,
// those of hosts, and for type file also those of the payload.
var keysByType = func() map[string][]string {
	shared := []string{"id", "type", "disabled", "match", "host", "strict_chain", "private_key_passphrase"}
	ofPayload := []string{"payload", "pkcs12_passphrase", "keystore_password", "pkcs12_encoding", "pkcs12_iterations", "alias"}
	host := slices.Clone(shared)
	for _, s := range config.Settings(reflect.TypeFor[HostKeys]()) {
		host = append(host, s.Name)
	}
	without := func(keys ...string) []string {
		return slices.DeleteFunc(slices.Clone(host), func(key string) bool { return slices.Contains(keys, key) })
	}
	var mail []string
	for _, s := range config.Settings(reflect.TypeFor[Target]()) {
		if slices.Contains(shared, s.Name) || !slices.Contains(host, s.Name) {
			mail = append(mail, s.Name)
		}
	}
	return map[string][]string{typeSMTP: mail, typePostfix: without("local_name"),
		// Clients of Dovecot do not use DANE.
		typeDovecot: without("dane", "dane_names", "sni_map", "sni_map_command"),
		typeFile:    append(without("reload", "pid_file", "sni_map", "sni_map_command", "local_name"), ofPayload...)}
}()

// has reports whether targets of this type may have a key. One of an unknown type may have all.
func (t *Target) has(key string) bool {
	keys, known := keysByType[t.Type]
	return !known || slices.Contains(keys, key)
}

// validateKeys reports the keys that the target sets and targets of its type do not have.
func (t *Target) validateKeys(v *validation) {
	var untouched Target
	untouched.SetDefaults()
	of, unset := reflect.ValueOf(t).Elem(), reflect.ValueOf(&untouched).Elem()
	for _, s := range config.Settings(of.Type()) {
		set := t.given[s.Name] || t.given == nil && !reflect.DeepEqual(of.FieldByIndex(s.Index).Interface(), unset.FieldByIndex(s.Index).Interface())
		if !set || t.has(s.Name) {
			continue
		}
		var types []string
		for _, kind := range append([]string{typeSMTP}, hostTypes...) {
			if slices.Contains(keysByType[kind], s.Name) {
				types = append(types, kind)
			}
		}
		hint := ""
		if i := slices.IndexFunc(keysByType[t.Type], func(key string) bool { return strings.HasPrefix(key, s.Name+"_") }); i >= 0 {
			hint = "; did you mean " + keysByType[t.Type][i] + "?"
		} else if near := legible.Nearest(s.Name, keysByType[t.Type]...); near != "" {
			hint = "; did you mean " + near + "?"
		}
		v.err(s.Name, "is a key of targets of type %s, and this one is of type %s: leave it out, or correct type%s", strings.Join(types, ", "), t.Type, hint)
	}
}

// completeHost sets the keys that a target on a host does not set to the defaults of its type.
func (t *Target) completeHost() {
	var d mailhost.Deployment
	switch t.Type {
	case typePostfix:
		d = mailhost.Postfix()
	case typeDovecot:
		d = mailhost.Dovecot()
	default:
		d = mailhost.Files()
	}
	if t.Reload == reloadSignal && t.Type != typeFile {
		d = d.WithSignal(t.Type, t.PIDFile)
		setDefault(&t.PIDFile, d.Signal.PIDFile)
	}
	d = d.WithDefaults()
	if t.Type != typeFile {
		setDefault(&t.Reload, reloadCommand)
	}
	setDefault(&t.PostDeployVerify.ServerName, t.LocalName)
	setDefault(&t.CertPath, d.CertPath)
	if t.oneFile() {
		setDefault(&t.KeyPath, t.CertPath)
	}
	setDefault(&t.KeyPath, d.KeyPath)
	setDefault(&t.CertMode, d.CertMode)
	setDefault(&t.KeyMode, d.KeyMode)
	setDefault(&t.CommandTimeout, d.CommandTimeout)
	for _, command := range []struct {
		key   string
		field *mailhost.Command
		value mailhost.Command
	}{{"validate_command", &t.ValidateCommand, d.ValidateCommand}, {"reload_command", &t.ReloadCommand, d.ReloadCommand}} {
		if *command.field == nil && !t.given[command.key] { // an empty list means none
			*command.field = command.value
		}
	}
	if t.BackupRetention == nil {
		t.BackupRetention = &d.BackupRetention
	}
	if t.has("dane") {
		setDefault(&t.DANE, t.usualDANE())
	}
	v := &t.PostDeployVerify
	setDefault(&v.Timeout, d.Verify.Timeout)
	setDefault(&v.Attempts, d.Verify.Attempts)
	setDefault(&v.Backoff, d.Verify.Backoff)
	setDefault(&v.MaxBackoff, d.Verify.MaxBackoff)
}

// verifies reports whether deployments to the target are verified.
func (v HostVerify) verifies() bool {
	return v.Enabled == nil && v.Endpoint+strings.Join(v.Endpoints, "") != "" || v.Enabled != nil && *v.Enabled
}

// endpoints returns the addresses to verify, and the key of each.
func (v HostVerify) endpoints() (all []mailhost.Endpoint, keys []string) {
	if v.Endpoint != "" {
		all, keys = append(all, mailhost.Endpoint{Address: v.Endpoint, Protocol: mailhost.Protocol(v.Protocol)}), append(keys, "post_deploy_verify.endpoint")
	}
	for i, text := range v.Endpoints {
		var e mailhost.Endpoint
		e.Address = text
		if protocol, address, ok := strings.Cut(text, "://"); ok {
			e = mailhost.Endpoint{Address: address, Protocol: mailhost.Protocol(protocol)}
		}
		all, keys = append(all, e), append(keys, fmt.Sprintf("post_deploy_verify.endpoints[%d]", i))
	}
	return all, keys
}

// deployment returns what the engine has to do for the target, which is complete. Without roots it
// needs no file.
func (t *Target) deployment() mailhost.Deployment {
	d := mailhost.Deployment{
		CertPath: t.CertPath, KeyPath: t.KeyPath, ChainPath: t.ChainPath, CertMode: t.CertMode, KeyMode: t.KeyMode,
		Owner: t.Owner, Group: t.Group, KeyOwner: t.KeyOwner, KeyGroup: t.KeyGroup,
		ValidateCommand: t.ValidateCommand, ReloadCommand: t.ReloadCommand, CommandTimeout: t.CommandTimeout,
		SNI: mailhost.SNIMap{Table: t.SNIMap, Command: t.SNIMapCommand}, LocalName: t.LocalName,
	}
	if t.Reload == reloadSignal {
		command := d.ReloadCommand
		d = d.WithSignal(t.Type, t.PIDFile)
		d.ReloadCommand = command
	}
	if t.BackupRetention != nil {
		d.BackupRetention = *t.BackupRetention
	}
	if v := t.PostDeployVerify; v.verifies() {
		d.Verify = mailhost.Verification{ServerName: v.ServerName, Timeout: v.Timeout, Attempts: v.Attempts, Backoff: v.Backoff, MaxBackoff: v.MaxBackoff}
		d.Verify.Endpoints, _ = v.endpoints()
	}
	return d
}

// roots reads post_deploy_verify.ca_file; nil without one.
func (v HostVerify) roots() (*x509.CertPool, error) {
	if v.CAFile == "" || !v.verifies() {
		return nil, nil
	}
	pem, err := inputfile.Read(v.CAFile, maxTargetFile)
	if err != nil {
		return nil, config.Unreadable(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("has no certificate in PEM")
	}
	return pool, nil
}

// validateHost checks the keys of a target on a mail host.
func (t *Target) validateHost(v *validation) {
	switch {
	case t.Host == "":
		v.err("host", "is required: the name of the mail host, as in mail_host of the process that runs there")
	case wrongHost(t.Host) != "":
		v.err("host", "want the name of the mail host, such as mx1 or mx1.example.com")
	}
	verify := t.PostDeployVerify
	problems := t.deployment().Problems()
	for _, p := range problems {
		if p.Key == "post_deploy_verify.attempts" {
			continue // its bounds are those of the key
		}
		if !strings.HasPrefix(p.Key, "post_deploy_verify.endpoint") && !strings.HasPrefix(p.Key, "post_deploy_verify.protocol") {
			v.err(p.Key, "%s", strings.Replace(p.Message, "is missing", "is required", 1))
		}
	}
	endpoints, keys := verify.endpoints()
	for i, e := range endpoints {
		v.endpoint(keys[i], e)
	}
	switch {
	case verify.verifies() && len(endpoints) == 0:
		v.err("post_deploy_verify.endpoint", "is required: where the program serves the certificate, such as 127.0.0.1:25")
	case !verify.verifies() && verify.Enabled == nil:
		v.warn("post_deploy_verify", "nothing checks that the certificate is served: set endpoint to an address of the program, such as %s", usualEndpoint(t.Type))
	}
	if message := wrongHost(verify.ServerName); verify.ServerName != "" && message != "" {
		v.err("post_deploy_verify.server_name", "%s", message)
	}
	if verify.Endpoint == "" && verify.Protocol != "" {
		v.err("post_deploy_verify.protocol", "is that of endpoint, which is not set; in endpoints write protocol://host:port")
	}
	if t.Type != typeFile && t.CertPath != t.KeyPath {
		v.warn("key_path", "certificate and key are two files, which cannot be replaced at the same moment: want one file, key_path equal to cert_path (docs/mail-hosts.md)")
	}
	t.validateReload(v)
	t.validateDANE(v)
	if t.Type != typeFile { // else with the payload
		v.ref("private_key_passphrase", t.PrivateKeyPassphrase)
	}
	t.validateHostPayload(v)
}

// validateReload checks the keys that say how the program learns of new files.
func (t *Target) validateReload(v *validation) {
	switch {
	case t.Reload == reloadSignal && len(t.ReloadCommand) > 0:
		v.err("reload_command", "is not run with reload: signal: leave out one of them")
	case t.Reload != reloadSignal && t.PIDFile != "":
		v.err("pid_file", "is for reload: signal, which is not set")
	}
	if t.SNIMap == "" && len(t.SNIMapCommand) > 0 {
		v.err("sni_map_command", "builds the database of sni_map, which is not set")
	}
	if t.SNIMap != "" && t.PostDeployVerify.verifies() && t.PostDeployVerify.ServerName == "" {
		v.err("post_deploy_verify.server_name", "is required with sni_map: without a name Postfix serves its default certificate")
	}
	if message := wrongHost(t.LocalName); t.LocalName != "" && message != "" {
		v.err("local_name", "%s", message)
	}
}

func usualEndpoint(kind string) string {
	if kind == typeDovecot {
		return "127.0.0.1:993"
	}
	return "127.0.0.1:25"
}

// endpoint checks one endpoint, whose key is key.
func (v *validation) endpoint(key string, e mailhost.Endpoint) {
	d := mailhost.Deployment{CertPath: "/x", KeyPath: "/x", Verify: mailhost.Verification{Endpoints: []mailhost.Endpoint{e}}}
	for _, p := range d.Problems() {
		if strings.HasSuffix(p.Key, ".protocol") && key == "post_deploy_verify.endpoint" {
			key = p.Key
		}
		v.err(key, "%s", p.Message)
	}
	if _, port, err := net.SplitHostPort(e.Address); err == nil && !isPort(port) {
		v.err(key, "want a port of 1 to 65535 in %q", legible.Clean(e.Address, 255))
	}
}

// isPort reports whether a text is the number of a TCP port.
func isPort(text string) bool {
	n, err := net.LookupPort("tcp", text)
	return err == nil && n > 0 && strings.Trim(text, "0123456789") == ""
}

// oneFile reports whether the payload is one file in another format than PEM.
func (t *Target) oneFile() bool {
	return t.Type == typeFile && t.Payload != payload.PEM && t.Payload != payload.PEMAndKey
}

// needsKey reports whether a delivery needs the private key.
func (t *Target) needsKey() bool { return t.onHost() && !t.oneFile() || t.settings(nil).NeedsKey() }

// validateHostPayload checks the payload of a target of type file: its secrets, and that it is one
// file.
func (t *Target) validateHostPayload(v *validation) {
	if t.Type != typeFile {
		return
	}
	if t.oneFile() && (t.KeyPath != t.CertPath || t.ChainPath != "") {
		v.err("key_path", "payload %s is one file, at cert_path: leave out key_path and chain_path", t.Payload)
	}
	if t.Payload == payload.ZIP || t.Payload == payload.DER {
		v.err("payload", "%s is an archive, which no program serves: want pem, pkcs12, jks, pkcs7 or pkcs12_truststore", t.Payload)
	}
	t.validatePayload(v)
}
