package certfiles

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/inputfile"
)

// layout is what a client's files say about one certificate: scheme, name and lineage are
// those that its hook would give.
type layout struct{ scheme, name, lineage string }

// numbered is the file that dehydrated's fullchain.pem leads to.
var numbered = regexp.MustCompile(`^fullchain-\d+\.pem$`)

// issued is what the hook of the client would have passed.
func (s *Scanner) issued(path string, f *file, keyFile string) events.Issued {
	l := layoutOf(path, f)
	source := url.URL{Scheme: l.scheme, Host: s.Host, Path: "/" + l.name}
	if l.scheme == "kubernetes" {
		source.Host = "" // each pod has another name, and the same certificate
	}
	leaf, _ := f.event.Leaf() // take has checked it
	return events.Issued{Chain: f.chain, CertFile: path, KeyFile: keyFile, Domains: leaf.DNSNames, Source: source.String(), Lineage: l.lineage}
}

func layoutOf(path string, f *file) layout {
	dir, base := filepath.Split(path)
	dir = filepath.Clean(dir)
	parent, stem := filepath.Base(dir), strings.TrimSuffix(base, filepath.Ext(base))
	exists := func(name string) bool { _, err := os.Lstat(filepath.Join(dir, name)); return err == nil }
	switch {
	case exists("..data"):
		return layout{"kubernetes", strings.Trim(filepath.ToSlash(dir), "/"), parent}
	case base == "fullchain.pem" && filepath.Base(filepath.Dir(dir)) == "live":
		return layout{"certbot", parent, parent}
	case base == "fullchain.pem" && linksTo(path, numbered):
		return layout{"dehydrated", f.primaryName(parent), parent}
	case base == "fullchain.cer":
		if confs, err := filepath.Glob(filepath.Join(escaped(dir), "*.conf")); err == nil {
			for _, conf := range confs {
				if name := strings.TrimSuffix(filepath.Base(conf), ".conf"); exists(name + ".key") {
					return layout{"acme.sh", name, parent}
				}
			}
		}
	case filepath.Ext(base) == ".crt" && exists(stem+".json"):
		if parent == stem {
			return layout{"caddy", filepath.Base(filepath.Dir(dir)) + "/" + stem, stem}
		}
		if name := legoName(filepath.Join(dir, stem+".json")); name != "" {
			return layout{"lego", name, name}
		}
	}
	// step has no layout: its hook names certificates by their paths, too.
	return layout{"file", strings.Trim(filepath.ToSlash(path), "/"), stem}
}

func linksTo(path string, name *regexp.Regexp) bool {
	to, err := os.Readlink(path)
	return err == nil && name.MatchString(filepath.Base(to))
}

// escaped is a path for filepath.Glob.
func escaped(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// primaryName is the name that dehydrated calls the certificate by: its first one. The
// directory may have an alias.
func (f *file) primaryName(fallback string) string {
	leaf, err := f.event.Leaf()
	switch {
	case err == nil && leaf.Subject.CommonName != "":
		return leaf.Subject.CommonName
	case err == nil && len(leaf.DNSNames) > 0:
		return leaf.DNSNames[0]
	}
	return fallback
}

// legoName reads the file that lego keeps beside each certificate; "" if it is none of lego's.
func legoName(path string) string {
	text, err := inputfile.Read(path, maxSize)
	if err != nil {
		return ""
	}
	var resource struct{ Domain, ID string }
	if json.Unmarshal(text, &resource) != nil {
		return ""
	}
	if resource.ID != "" { // since version 5
		return resource.ID
	}
	return resource.Domain
}
