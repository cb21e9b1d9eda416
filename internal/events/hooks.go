package events

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// Host is the environment of a hook, as far as the hooks use it.
type Host struct {
	Name     string                            // of the machine, for the source
	Env      func(string) string               // os.Getenv
	Args     []string                          // arguments that the client passes to the hook
	ReadFile func(path string) ([]byte, error) // os.ReadFile
}

// ErrNotIssued is FromHook's error when the client called its hook for something
// other than a new certificate. There is nothing to publish, and nothing is wrong.
var ErrNotIssued = errors.New("the hook was not called for a new certificate")

// hook is one ACME client.
type hook struct {
	client string
	// how says where to configure the hook, for the error when it was not called from there.
	how  string
	read func(Host) (told, error)
}

// told is what a client passes to its hook; chain and key are paths. lineage is empty where name
// already tells the client's certificates apart.
type told struct {
	name, chain, key string
	lineage          string
	domains          []string
	again            bool   // the client says that the certificate is not new
	scheme           string // of the source; "" is the client
}

// hooks is the table of clients. A new client needs a row here, a row in
// docs/events.md and a case in the test.
var hooks = []hook{
	{"certbot", "certbot's deploy hook: certbot ... --deploy-hook 'certpost publish --from certbot'", fromCertbot},
	{"lego", "lego's hook: lego ... --deploy-hook 'certpost publish --from lego' (before version 5: run --run-hook, renew --renew-hook)", fromLego},
	{"acme.sh", "acme.sh's post hook: acme.sh --issue ... --post-hook 'certpost publish --from acme.sh'", fromAcmeSh},
	{"dehydrated", "dehydrated's HOOK, with its arguments passed on: certpost publish --from dehydrated -- \"$@\"", fromDehydrated},
	{"caddy", "Caddy's module (examples/caddy), which passes the files of the certificate and of its key: certpost publish --from caddy -- CERT KEY", fromCaddy},
	{"step", "step's --exec, with the files of the certificate and of its key: step ca renew --exec 'certpost publish --from step -- CERT KEY' CERT KEY", fromFiles},
	{"files", "any client's hook, with the files of the certificate and of its key: certpost publish --from files -- CERT KEY", fromFiles},
}

// Hooks returns the names of the ACME clients that FromHook supports.
func Hooks() []string {
	names := make([]string, len(hooks))
	for i, h := range hooks {
		names[i] = h.client
	}
	return names
}

// FromHook reads what an ACME client passes to its hook about a new certificate. It
// returns the path of the key's file and does not read that file.
func FromHook(client string, host Host) (Issued, error) {
	i := slices.IndexFunc(hooks, func(h hook) bool { return h.client == client })
	if i < 0 {
		return Issued{}, fmt.Errorf("unknown ACME client %s; expected one of %s", quoteName(client), strings.Join(Hooks(), ", "))
	}
	h := hooks[i]
	told, err := h.read(host)
	if err != nil {
		return Issued{}, err
	}
	if told.chain == "" || told.name == "" {
		return Issued{}, fmt.Errorf("%s passed no certificate: this works only as %s", client, h.how)
	}
	file, err := host.ReadFile(told.chain)
	if err != nil {
		return Issued{}, fmt.Errorf("read the certificate that %s wrote: %w", client, err)
	}
	chain, leaf, err := readChain(file)
	if err != nil {
		return Issued{}, fmt.Errorf("%s: %w", told.chain, err)
	}
	issued := Issued{
		Chain:    chain,
		CertFile: told.chain,
		Domains:  told.domains,
		Lineage:  cmp.Or(told.lineage, told.name),
		Again:    told.again,
		Source:   (&url.URL{Scheme: cmp.Or(told.scheme, client), Host: host.Name, Path: "/" + told.name}).String(),
	}
	if told.key != "" {
		// The consumer's working directory differs from the hook's.
		if issued.KeyFile, err = filepath.Abs(told.key); err != nil {
			return Issued{}, fmt.Errorf("find the key's file: %w", err)
		}
	}
	if len(issued.Domains) == 0 {
		issued.Domains = leaf.DNSNames
	}
	return issued, nil
}

// fromCertbot reads what certbot sets for deploy hooks (certbot's user guide,
// "Renewing certificates"). RENEWED_LINEAGE is the live directory, whose files are
// links into the archive. The reference names the link, as other programs on such a
// host do: after a renewal it leads to the new key. A delivery that is late then finds
// a key that does not match its certificate, and the renewal's own event delivers the
// new pair.
func fromCertbot(h Host) (told, error) {
	live := h.Env("RENEWED_LINEAGE")
	if live == "" {
		return told{}, nil
	}
	return told{
		name:    filepath.Base(live),
		chain:   filepath.Join(live, "fullchain.pem"),
		key:     filepath.Join(live, "privkey.pem"),
		domains: strings.Fields(h.Env("RENEWED_DOMAINS")),
	}, nil
}

// fromLego reads what lego sets (its documentation, "Hooks"): LEGO_HOOK_* since
// version 5, before that LEGO_*. The certificate's file includes the chain, unless
// lego runs with --no-bundle.
func fromLego(h Host) (told, error) {
	if chain := h.Env("LEGO_HOOK_CERT_PATH"); chain != "" {
		return told{
			name:    h.Env("LEGO_HOOK_CERT_NAME"),
			chain:   chain,
			key:     h.Env("LEGO_HOOK_CERT_KEY_PATH"),
			domains: strings.FieldsFunc(h.Env("LEGO_HOOK_CERT_DOMAINS"), func(r rune) bool { return r == ',' || r == ' ' }),
		}, nil
	}
	return told{name: h.Env("LEGO_CERT_DOMAIN"), chain: h.Env("LEGO_CERT_PATH"), key: h.Env("LEGO_CERT_KEY_PATH")}, nil
}

// fromAcmeSh reads what acme.sh exports to its post hook, which runs after the first
// issue and after renewals (the renew hook has the same variables). It also runs after
// a failed attempt, without the variables, and then FromHook returns an error.
func fromAcmeSh(h Host) (told, error) {
	chain := h.Env("CERT_FULLCHAIN_PATH")
	return told{name: h.Env("Le_Domain"), chain: chain, key: h.Env("CERT_KEY_PATH"), lineage: directory(chain)}, nil
}

// fromDehydrated reads the arguments of dehydrated's hook, which is called for every
// step; deploy_cert has DOMAIN KEYFILE CERTFILE FULLCHAINFILE CHAINFILE TIMESTAMP, and
// unchanged_cert the same without the last. After a deploy_cert that failed, dehydrated says
// only unchanged_cert.
func fromDehydrated(h Host) (told, error) {
	if len(h.Args) == 0 {
		return told{}, nil
	}
	step := h.Args[0]
	if step != "deploy_cert" && step != "unchanged_cert" {
		return told{}, ErrNotIssued
	}
	if len(h.Args) < 5 {
		return told{}, fmt.Errorf("dehydrated's %s has %d arguments, expected at least DOMAIN KEYFILE CERTFILE FULLCHAINFILE", step, len(h.Args)-1)
	}
	return told{name: h.Args[1], key: h.Args[2], chain: h.Args[4], lineage: directory(h.Args[4]), again: step == "unchanged_cert"}, nil
}

// fromCaddy reads the arguments of Caddy's module: the files of the certificate and of its key in
// Caddy's storage, certificates/ISSUER/NAME/NAME.crt. One name may have certificates of several
// issuers.
func fromCaddy(h Host) (told, error) {
	if len(h.Args) == 0 || len(h.Args) > 2 {
		return told{}, nil
	}
	chain, err := filepath.Abs(h.Args[0])
	if err != nil {
		return told{}, fmt.Errorf("find the certificate's file: %w", err)
	}
	name := strings.TrimSuffix(filepath.Base(chain), filepath.Ext(chain))
	t := told{name: directory(filepath.Dir(chain)) + "/" + name, chain: chain, lineage: name}
	if len(h.Args) == 2 {
		t.key = h.Args[1]
	}
	return t, nil
}

// fromFiles reads the arguments that are written into a hook, such as step's --exec, which itself
// passes none: the file of the certificate, and of the key if events shall reference it. The file's
// path is the name of the certificate: two of one name may exist in two directories. A watcher,
// which cannot tell such files from others, gives them the same name.
func fromFiles(h Host) (told, error) {
	if len(h.Args) == 0 || len(h.Args) > 2 {
		return told{}, nil
	}
	chain, err := filepath.Abs(h.Args[0])
	if err != nil {
		return told{}, fmt.Errorf("find the certificate's file: %w", err)
	}
	t := told{scheme: "file", name: strings.Trim(filepath.ToSlash(chain), "/"), chain: chain, lineage: strings.TrimSuffix(filepath.Base(chain), filepath.Ext(chain))}
	if len(h.Args) == 2 {
		t.key = h.Args[1]
	}
	return t, nil
}

// directory is the name of the directory of a certificate's file. acme.sh and dehydrated keep the RSA
// and the ECDSA certificate of one domain in two directories (example.com_ecc, an alias).
func directory(file string) string {
	if file == "" {
		return ""
	}
	return filepath.Base(filepath.Dir(file))
}
