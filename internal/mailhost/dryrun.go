package mailhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/certpost/certpost/internal/payload"
)

// Finding is one thing that Plan found out.
type Finding struct {
	What string // certificate, file, command, served, backup
	Text string
	// Failed says that a deployment would fail because of it; Warning that somebody should look.
	Failed, Warning bool
}

// Plan says what Deploy would do now, and changes nothing: what becomes of each file, which
// commands would run, and what each endpoint serves at present. Without material it says
// only what holds for every certificate.
func (h Deployer) Plan(ctx context.Context, d Deployment, m *Material) []Finding {
	p := &planning{Deployer: h, d: d.WithDefaults(), contents: &contents{}}
	if m != nil {
		c, err := h.prepare(d, *m)
		if err != nil {
			p.fail("certificate", err)
			return p.found
		}
		defer c.clear()
		p.contents, p.material = c, true
		p.say("certificate", "%s, %d issuers; the key belongs to it", shortName(c.leaf), len(c.chain))
	} else if err := d.Check(); err != nil {
		p.fail("target", err)
		return p.found
	}
	if p.files() {
		p.server(ctx)
		p.commands()
	}
	p.served(ctx)
	return p.found
}

type planning struct {
	Deployer
	d        Deployment
	contents *contents
	material bool
	same     bool // all files are as wanted already
	found    []Finding
}

func (p *planning) say(what, text string, args ...any) {
	p.found = append(p.found, Finding{What: what, Text: fmt.Sprintf(text, args...)})
}

func (p *planning) fail(what string, err error) {
	text := err.Error()
	if f, ok := errors.AsType[*Failure](err); ok {
		text = fmt.Sprintf("%s: %s", f.Code, f.Reason)
	}
	p.found = append(p.found, Finding{What: what, Text: text, Failed: true})
}

// files says what becomes of each file, and reports whether something would be replaced.
func (p *planning) files() bool {
	files, err := plan(p.d, p.contents)
	if err == nil && supported != nil {
		err = supported
	}
	if err == nil {
		err = ownAll(p.d, files)
	}
	if err != nil {
		p.fail("file", err)
		return false
	}
	defer func() {
		for _, f := range files {
			clear(f.data)
		}
	}()
	p.same = p.material
	for _, f := range files {
		current, err := f.current()
		if err != nil {
			p.fail("file", err)
			return false
		}
		p.same = p.same && current
		_, missing := os.Lstat(f.path)
		switch {
		case errors.Is(missing, fs.ErrNotExist):
			p.say("file", "%s would be created, mode %v", f.path, Mode(f.mode))
		case !p.material:
			p.say("file", "%s is there and can be replaced", f.path)
		case current:
			p.say("file", "%s is the same already", f.path)
		default:
			p.say("file", "%s would be replaced, mode %v", f.path, Mode(f.mode))
		}
	}
	if _, err := os.Lstat(files[0].path + ".certpost-journal"); err == nil {
		p.found = append(p.found, Finding{What: "file", Text: "a deployment was interrupted; the next one, or the next start of certpost, ends it first", Warning: true})
	}
	if p.same {
		p.say("result", "unchanged: nothing would be written, reloaded or verified")
		return false
	}
	last, err := files[0].readRecord()
	if err != nil && !errors.Is(err, errNoRecord) {
		p.fail("file", err)
		return false
	}
	if o := last.older(p.Event); o != nil {
		p.found = append(p.found, Finding{What: "result", Text: "skipped: " + o.Reason, Warning: true})
		return false
	}
	if text := issuedEarlier(p.contents.leaf, leafIn(files[0].path)); text != "" {
		p.found = append(p.found, Finding{What: "result", Text: text, Warning: true})
	}
	if hasOther(files, p.contents.leaf, last.RolledBack) {
		p.say("backup", "there is a backup of another certificate beside %s", files[0].path)
	}
	return true
}

// server checks what the program's own configuration says about the files.
func (p *planning) server(ctx context.Context) {
	if err := p.d.checkMap(); err != nil {
		p.fail("sni_map", err)
	}
	if err := p.d.checkLocalName(ctx); err != nil {
		p.fail("local_name", err)
	}
	if p.d.Signal.IsZero() {
		return
	}
	if pid, err := p.d.Signal.find(procfs); err != nil {
		p.fail("reload", err)
	} else {
		p.say("reload", "process %d (%s) would get SIGHUP", pid, p.d.Signal.Name)
	}
}

// commands says which commands would run, and that they can be found.
func (p *planning) commands() {
	for _, c := range []struct {
		command Command
		when    string
	}{{p.d.ValidateCommand, "before the files are replaced"}, {p.d.sniCommand(), "after that"}, {p.d.ReloadCommand, "after that"}} {
		if len(c.command) == 0 {
			continue
		}
		if _, err := findProgram(c.command[0]); err != nil {
			p.fail("command", err)
			continue
		}
		p.say("command", "`%s` would run %s", c.command, c.when)
	}
}

// served asks each endpoint what it serves now.
func (p *planning) served(ctx context.Context) {
	v := p.d.Verify
	for _, e := range v.Endpoints {
		_, state, err := v.connect(ctx, e, nil)
		switch {
		case err != nil:
			p.found = append(p.found, Finding{What: "served", Text: fmt.Sprintf("%s (%s) does not answer now: %s", e.Address, e.protocol(), fail("", "", "%s", err).Reason), Warning: true})
		default:
			p.say("served", "%s (%s) serves %s now", e.Address, e.protocol(), shortName(state.PeerCertificates[0]))
		}
	}
}

// CheckCertificate returns why a deployment of a certificate must fail, whatever its key and the
// host; nil if it may succeed. Its errors are those of Deploy.
func CheckCertificate(d Deployment, b *payload.Bundle, now time.Time) error {
	c := &contents{leaf: b.Leaf, chain: b.Chain}
	return c.checkPublic(d.WithDefaults(), now)
}
