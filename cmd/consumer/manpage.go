package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type manCmd struct{}

// Run prints the manual page certpost(1), in the macros of man(7). It has all commands, and no
// date: the same program prints the same.
func (c *manCmd) Run(a *app, k *kong.Kong) error {
	_, err := fmt.Fprint(a.stdout, manPage(k.Model.Node))
	return err
}

// manPage writes the page from the same model as the help.
func manPage(root *kong.Node) string {
	var p roffPage
	p.line(".TH CERTPOST 1 \"\" \"certpost %s\" \"User Commands\"", roff(programVersion()))
	p.line(".nh")
	p.line(".ad l")
	p.section("NAME")
	p.text("certpost - consume events of issued certificates, and deliver these by e-mail")
	p.section("SYNOPSIS")
	p.line(".B certpost")
	p.line("[\\fB\\-\\-config\\fR=\\fIFILE\\fR] \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]")
	p.section("DESCRIPTION")
	p.text("Certpost consumes certificate.issued events from NATS JetStream, fetches the secrets that a delivery needs from Vault, and mails the certificate to the recipients that its targets define. " +
		"Temporary failures are retried; permanent ones become dead letters, which an operator reviews and replays.")
	p.line(".PP")
	p.text("certpost run is the service. The other commands check its configuration, publish events, and show and change what it works on.")
	p.section("OPTIONS")
	p.flags(root.Flags)
	p.text("--nats-url is for commands that connect to NATS, --quiet for those that change something.")
	p.section("EXAMPLES")
	p.examples(firstExamples)
	p.section("COMMANDS")
	for _, command := range root.Leaves(true) {
		p.command(command)
	}
	p.section("EXIT STATUS")
	p.item("0", "The command did what it was asked to.")
	p.item("1", "It failed; standard error says why.")
	p.item("2", "Wrong usage, or an invalid configuration. A group of commands without its command prints its help, and ends so.")
	p.item("75", "publish keeps the event in the spool, because it cannot be published yet.")
	p.section("ENVIRONMENT")
	p.item("CERTPOST_CONFIG", "The configuration file.")
	p.item("COLUMNS", "The width of the terminal, if it is another one than the terminal says.")
	p.item("NO_COLOR", "If it is set, there are no colours; nor are there with TERM=dumb, or without a terminal.")
	p.item("CERTPOST_*", "Every setting outside targets and relays, such as CERTPOST_NATS_URL for nats.url.")
	p.section("FILES")
	p.item("certpost.yaml", "The configuration, in the working directory. The service of the packages reads /etc/certpost/certpost.yaml.")
	p.item("/var/lib/certpost", "Data of the service: the embedded NATS, the seeds of its users, the spool.")
	p.section("SEE ALSO")
	p.line(".BR systemctl (1),")
	p.line(".BR journalctl (1)")
	p.line(".PP")
	p.text("https://github.com/certpost/certpost has the documentation: every key of the configuration, every code of a failure, and what to do about it.")
	return p.String()
}

// roffPage is a manual page that is being written.
type roffPage struct{ strings.Builder }

func (p *roffPage) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *roffPage) section(name string) { p.line(".SH %s", name) }

// text writes one paragraph of plain text.
func (p *roffPage) text(s string) { p.line("%s", roff(s)) }

func (p *roffPage) item(term, text string) {
	p.line(".TP")
	p.line(".B %s", roff(term))
	p.text(text)
}

// command describes a command with its own flags and those of its groups.
func (p *roffPage) command(n *kong.Node) {
	name := commandName(n)
	p.line(".SS %s", roff(name))
	var usage []string
	for _, arg := range n.Positional {
		usage = append(usage, arg.Summary())
	}
	p.line("\\fBcertpost %s\\fR %s", roff(name), roff(strings.Join(append(usage, "[options]"), " ")))
	p.line(".PP")
	p.text(n.Help)
	if n.Detail != "" {
		p.line(".PP")
		p.text(n.Detail)
	}
	for _, arg := range n.Positional {
		p.item(arg.Summary(), valueHelp(arg, arg.Help))
	}
	for group := n; group.Parent != nil; group = group.Parent { // the flags of the root are under OPTIONS
		p.flags(group.Flags)
	}
	p.examples(factsOf(n).examples)
}

// examples writes command lines as they are typed.
func (p *roffPage) examples(all []example) {
	for _, e := range all {
		p.line(".PP")
		p.text(e.what + ":")
		p.line(".RS 4")
		p.line(".nf")
		p.text(e.line)
		p.line(".fi")
		p.line(".RE")
	}
}

func (p *roffPage) flags(flags []*kong.Flag) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		term := "\\fB" + roff("--"+f.Name) + "\\fR"
		if f.Short != 0 {
			term = "\\fB" + roff("-"+string(f.Short)) + "\\fR, " + term
		}
		if !f.IsBool() && !f.IsCounter() {
			term += "=\\fI" + roff(placeholder(f)) + "\\fR"
		}
		help := valueHelp(f.Value, f.Help)
		for _, env := range f.Envs {
			help += " Environment: " + env + "."
		}
		p.line(".TP")
		p.line("%s", term)
		p.text(help)
	}
}

// placeholder stands for the value of a flag.
func placeholder(f *kong.Flag) string {
	if f.PlaceHolder != "" {
		return f.PlaceHolder
	}
	return strings.ToUpper(f.Name)
}

// valueHelp adds the default, and the values if the help does not name them.
func valueHelp(v *kong.Value, help string) string {
	if values := v.EnumSlice(); v.Enum != "" && slices.ContainsFunc(values, func(value string) bool { return !strings.Contains(help, value) }) {
		help += " One of " + strings.Join(values, ", ") + "."
	}
	if v.HasDefault && v.Default != "" && !v.IsBool() {
		help += " Default: " + v.Default + "."
	}
	return help
}

// roff is text as groff has to read it: each character stands for itself, and no line
// begins a request.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "\n.", "\n\\&.").Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}
