package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/delivery"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/service"
	"github.com/certpost/certpost/internal/verdict"
)

type natsAccountCmd struct {
	Source   []string `help:"Publisher on certificate.issued.SOURCE (repeatable). Default: the keys of events.sources." placeholder:"SOURCE" sep:"none"`
	MailHost []string `help:"Mail host that has a process of its own (repeatable). Default: the hosts of the targets." placeholder:"NAME"`
	Account  string   `help:"Name of the program's account, and the beginning of those of the others." default:"CERTPOST"`
	Auth     string   `help:"How the users log in: password or nkey." enum:"password,nkey" default:"password"`
	Output   string   `help:"Format: text (configuration of a NATS server) or json." enum:"text,json" default:"text" short:"o"`
}

// Validate checks the command line after it was parsed.
func (c *natsAccountCmd) Validate() error {
	for _, source := range c.Source {
		if problem := events.WrongSource(source); problem != "" {
			return fmt.Errorf("--source %s: %s", printable(source), problem)
		}
	}
	for _, host := range c.MailHost {
		if problems := delivery.ValidateHost(host); problems != nil {
			return fmt.Errorf("--mail-host %s: %s", printable(host), problems[0].Message)
		}
	}
	if !accountName.MatchString(c.Account) {
		return fmt.Errorf("--account %s: want a name of letters, digits, - and _", printable(c.Account))
	}
	return nil
}

var accountName = domainName

// Run prints one account with one user for each role. It knows no passwords: the text has
// variables, which the NATS server reads from its environment.
func (c *natsAccountCmd) Run(a *app) error {
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	_ = cfg.openBook(configPath(a.config, a.env), a.env) // problems of targets are not this command's
	roles := broker.Roles(c.names(cfg))
	if c.Output == "json" {
		var all []map[string]any
		for _, r := range roles {
			all = append(all, map[string]any{"role": r.Name, "account": c.account(r), "about": r.About, "publish": r.Publish, "subscribe": r.Subscribe, "allow_responses": r.Answers,
				"inbox_prefix": r.Inbox, "api_prefix": r.APIPrefix, "imports": r.Imports})
		}
		return a.json(all)
	}
	c.print(a.stdout, roles)
	return nil
}

// names are the names of the configuration.
func (c *natsAccountCmd) names(cfg *Config) broker.RoleNames {
	n := broker.RoleNames{Domain: cfg.NATS.Domain, APIPrefix: cfg.NATS.APIPrefix, Inbox: cfg.NATS.InboxPrefix, Sources: c.Source, Requests: service.Names(), Reads: service.Reads()}
	if len(n.Sources) == 0 {
		for _, key := range slices.Sorted(maps.Keys(cfg.Events.Sources)) {
			if !strings.Contains(key, "*") { // a publisher has one subject
				n.Sources = append(n.Sources, key)
			}
		}
	}
	if len(n.Sources) == 0 {
		n.Sources = []string{""}
	}
	n.Hosts = c.hosts(cfg)
	return n
}

// hosts are the mail hosts, with the targets that the configuration defines there. Without any the
// ledger entries of all targets are a host's.
func (c *natsAccountCmd) hosts(cfg *Config) (all []broker.MailHost) {
	known := map[string][]string{}
	names := slices.Clone(c.MailHost)
	if cfg.Book != nil {
		for _, t := range cfg.Book.Current().All() {
			if !verdict.OnHost(t.Lane()) {
				continue
			}
			known[t.Lane()] = append(known[t.Lane()], t.ID)
			if len(c.MailHost) == 0 && !slices.ContainsFunc(names, func(name string) bool { return delivery.HostLane(name) == t.Lane() }) {
				names = append(names, t.Host)
			}
		}
	}
	for _, name := range names {
		host := broker.MailHost{Name: name, Lane: delivery.HostLane(name), Targets: known[delivery.HostLane(name)]}
		if host.Targets == nil {
			host.Targets = []string{"*"}
		}
		all = append(all, host)
	}
	return all
}

// account is the name of a role's account.
func (c *natsAccountCmd) account(r broker.UserRole) string {
	if r.Imports == nil {
		return c.Account
	}
	return c.Account + "-" + r.Name
}

func (c *natsAccountCmd) print(w io.Writer, roles []broker.UserRole) {
	fmt.Fprintf(w, "accounts {\n")
	for i, r := range roles {
		if i > 0 && r.Imports == nil {
			continue // a user of the program's account, which is the first
		}
		fmt.Fprintf(w, "  %s {\n", c.account(r))
		users := []broker.UserRole{r}
		if i == 0 {
			users = slices.DeleteFunc(slices.Clone(roles), func(r broker.UserRole) bool { return r.Imports != nil })
			fmt.Fprintln(w, "    jetstream: enabled")
			c.printExports(w, roles)
		} else {
			fmt.Fprintln(w, "    imports: [")
			for _, i := range r.Imports {
				to := ""
				if i.To != "" {
					to = fmt.Sprintf(", to: %q", i.To)
				}
				fmt.Fprintf(w, "      {service: {account: %s, subject: %q}%s, share: true}\n", c.Account, i.Subject, to)
			}
			fmt.Fprintln(w, "    ]")
		}
		fmt.Fprintln(w, "    users: [")
		for _, user := range users {
			c.printUser(w, user)
		}
		fmt.Fprintln(w, "    ]\n  }")
	}
	fmt.Fprintln(w, "}")
}

// printExports prints what the program's account opens to those of other roles. An answer may take
// minutes, and reading the audit has many answers to one request.
func (c *natsAccountCmd) printExports(w io.Writer, roles []broker.UserRole) {
	importers := map[string][]string{}
	var services []broker.Import
	for _, r := range roles {
		for _, i := range r.Imports {
			if importers[i.Subject] == nil {
				services = append(services, i)
			}
			importers[i.Subject] = append(importers[i.Subject], c.account(r))
		}
	}
	fmt.Fprintln(w, "    exports: [")
	for _, s := range services {
		response := "singleton"
		if s.AnswersInParts() {
			response = "stream"
		}
		fmt.Fprintf(w, "      {service: %q, response: %s, threshold: \"10m\", accounts: [%s]}\n", s.Subject, response, strings.Join(importers[s.Subject], ", "))
	}
	fmt.Fprintln(w, "    ]")
}

func (c *natsAccountCmd) printUser(w io.Writer, r broker.UserRole) {
	variable := "$NATS_" + strings.ToUpper(strings.ReplaceAll(r.Name, "-", "_"))
	login := fmt.Sprintf("user: %s, password: %s_PASSWORD", r.Name, variable)
	if c.Auth == "nkey" {
		login = fmt.Sprintf("nkey: %s_NKEY", variable)
	}
	api := ""
	if r.APIPrefix != "" {
		api = ", api_prefix: " + r.APIPrefix
	}
	fmt.Fprintf(w, "      # %s: %s.\n      # Its settings: nats: {inbox_prefix: %s%s}\n      {%s, permissions: {\n", r.Name, r.About, r.Inbox, api, login)
	subjects(w, "publish", r.Publish)
	subjects(w, "subscribe", r.Subscribe)
	if r.Answers {
		fmt.Fprintln(w, `        allow_responses: {max: 1, expires: "10m"}`)
	}
	fmt.Fprintln(w, "      }}")
}

// subjects prints a list in quotes: outside them $ begins a variable.
func subjects(w io.Writer, key string, list []string) {
	fmt.Fprintf(w, "        %s: {allow: [\n", key)
	for _, subject := range list {
		fmt.Fprintf(w, "          %q\n", subject)
	}
	fmt.Fprintln(w, "        ]}")
}
