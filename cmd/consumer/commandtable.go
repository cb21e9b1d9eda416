package main

import (
	"strings"

	"github.com/alecthomas/kong"
)

// commandFacts are what the help, the common flags and the tests know of a command besides its
// flags.
type commandFacts struct {
	// nats: it connects to NATS, so that --nats-url says where.
	nats bool
	// acts: it changes something. Before, standard error says which system answers; its report
	// is left out with --quiet.
	acts     bool
	examples []example
}

// example is a command line of a help, as a user types it, and what it is for.
type example struct{ what, line string }

// commandTable has every command that the help shows; a test refuses one without an example,
// and reads each example with the parser. The help of a group has the first example of each of
// its commands.
var commandTable = map[string]commandFacts{
	"run": {nats: true, examples: []example{
		{"Run the service", "certpost run -c /etc/certpost/certpost.yaml"},
		{"Deploy on this mail host, for a Certpost elsewhere", "certpost run --mail-host mx1"},
	}},
	"demo": {examples: []example{
		{"See everything work, with pages to click through", "certpost demo"},
		{"Deliver the samples, print a table, and exit", "certpost demo --once"},
	}},
	"init": {nats: true, acts: true, examples: []example{
		{"Answer a few questions", "certpost init"},
		{"Write the configuration without questions", "certpost init --host smtp.example.com --from certs@example.com --to ops@example.com"},
		{"Write that of an agent on a mail host", "certpost init --mail-host mx1 --names mx1.example.com --nats-url tls://nats.example.com:4222"},
	}},
	"publish": {nats: true, acts: true, examples: []example{
		{"Publish a certificate whose key is in Vault", "certpost publish --cert fullchain.pem --key-ref vault:secret/certs/www#private_key"},
		{"Be certbot's deploy hook", "certbot renew --deploy-hook 'certpost publish --from certbot'"},
		{"Publish what earlier calls had to keep", "certpost publish --flush"},
	}},
	"issue": {nats: true, acts: true, examples: []example{
		{"Issue a certificate, store its key, publish it", "certpost issue --vault pki/issue/web --cn www.example.com --store-key vault:secret/certs/{cn}#private_key"},
	}},
	"watch directories": {nats: true, examples: []example{
		{"Publish what certbot renews", "certpost watch /etc/letsencrypt/live"},
		{"Look once, from cron", "certpost watch --once /etc/letsencrypt/live"},
	}},
	"watch kubernetes": {nats: true, examples: []example{
		{"Publish the TLS secrets of a namespace", "certpost watch kubernetes --namespace web --no-key"},
	}},
	"hook install": {acts: true, examples: []example{
		{"Install certbot's hook", "certpost hook install certbot"},
		{"Have it store the key in Vault", "certpost hook install lego -- --store-key vault:secret/certs/{lineage}#private_key"},
	}},
	"check": {nats: true, examples: []example{
		{"Check the configuration", "certpost check"},
		{"Also connect to NATS, Vault and every relay", "certpost check --live"},
	}},
	"render": {examples: []example{
		{"Write the mail that a target would get", "certpost render --target ops --cert fullchain.pem -o mail.eml"},
		{"See subject, bodies and files of all targets", "certpost render --output json"},
	}},
	"send-test": {acts: true, examples: []example{
		{"Send a test certificate to a target's recipients", "certpost send-test --target ops"},
	}},
	"relay": {examples: []example{
		{"Run it on ports that need no privileges", "certpost relay --smtp 127.0.0.1:2525 --submission 127.0.0.1:2587"},
		{"Refuse an address", "certpost relay --fault 'rcpt:nobody@*=550 5.1.1 no such user'"},
	}},
	"status": {nats: true, examples: []example{
		{"See what waits and what failed", "certpost status"},
		{"Ask another system", "certpost status --nats-url tls://nats.example.com:4222"},
	}},
	"targets list": {examples: []example{
		{"List the targets", "certpost targets list"},
		{"With all columns, also in a narrow terminal", "certpost targets list -o wide"},
	}},
	"targets show": {examples: []example{
		{"See all settings of a target", "certpost targets show ops"},
	}},
	"dead-letters list": {nats: true, examples: []example{
		{"List the open dead letters of a day", "certpost dead-letters list --since 24h"},
		{"Those whose certificates expire first, at the top", "certpost dead-letters list --order expiry"},
		{"Save those of a target for a spreadsheet", "certpost dead-letters list --target ops -o csv > letters.csv"},
	}},
	"dead-letters groups": {nats: true, examples: []example{
		{"See the causes, and what to do about each", "certpost dead-letters groups"},
		{"Only causes of this week", "certpost dead-letters groups --since 7d"},
	}},
	"dead-letters show": {nats: true, examples: []example{
		{"See what happened, and what to do", "certpost dead-letters show 45"},
	}},
	"dead-letters preflight": {nats: true, examples: []example{
		{"Check whether a replay would be delivered", "certpost dead-letters preflight 45"},
		{"Also ask the relay about the recipients, for all of a cause", "certpost dead-letters preflight --all --code SMTP_PERMANENT --recipients"},
	}},
	"dead-letters replay": {nats: true, acts: true, examples: []example{
		{"Send one again, and wait until its outcome is known", "certpost dead-letters replay 45 --wait"},
		{"See which letters of a cause a replay would take", "certpost dead-letters replay --all --code SMTP_AUTH --dry-run"},
		{"Replay them, the first one alone, as fast as the relay likes", "certpost dead-letters replay --all --code SMTP_AUTH --reason 'password changed' --canary --rate 10/s"},
	}},
	"dead-letters edit": {nats: true, acts: true, examples: []example{
		{"Send one to another address", "certpost dead-letters edit 45 --to ops@example.com --reason 'left the company'"},
	}},
	"dead-letters discard": {nats: true, acts: true, examples: []example{
		{"Take letters off the list", "certpost dead-letters discard 45 46 --reason 'host was switched off'"},
		{"All of a target, after a look", "certpost dead-letters discard --all --target old-proxy --reason 'host was switched off'"},
	}},
	"dead-letters restore": {nats: true, acts: true, examples: []example{
		{"Take back a discard", "certpost dead-letters restore 45 --reason 'discarded by mistake'"},
	}},
	"dead-letters hold": {nats: true, acts: true, examples: []example{
		{"Keep a letter from being replayed", "certpost dead-letters hold 45 --reason 'the customer was asked'"},
	}},
	"dead-letters release": {nats: true, acts: true, examples: []example{
		{"End the hold", "certpost dead-letters release 45"},
	}},
	"dead-letters note": {nats: true, acts: true, examples: []example{
		{"Tell the others what was found out about a group", "certpost dead-letters note 367292c83597 'the provider is asked, answer on Monday'"},
	}},
	"dead-letters assign": {nats: true, acts: true, examples: []example{
		{"Say who works on a group", "certpost dead-letters assign 367292c83597 alice"},
		{"Assign it to no one", "certpost dead-letters assign 367292c83597 --remove"},
	}},
	"dead-letters ticket": {nats: true, acts: true, examples: []example{
		{"Link the ticket of a group", "certpost dead-letters ticket 367292c83597 https://tickets.example.com/4711"},
	}},
	"replays list": {nats: true, examples: []example{
		{"List the replay runs", "certpost replays list"},
	}},
	"replays show": {nats: true, examples: []example{
		{"Watch a run until it ends", "certpost replays show 01JQ8Z5V4T --wait"},
	}},
	"replays pause": {nats: true, acts: true, examples: []example{
		{"Pause a run", "certpost replays pause 01JQ8Z5V4T --reason 'the relay is slow'"},
	}},
	"replays resume": {nats: true, acts: true, examples: []example{
		{"Go on with it", "certpost replays resume 01JQ8Z5V4T"},
	}},
	"replays cancel": {nats: true, acts: true, examples: []example{
		{"End it before all letters are replayed", "certpost replays cancel 01JQ8Z5V4T --reason 'wrong password'"},
	}},
	"audit list": {nats: true, examples: []example{
		{"See what was done today", "certpost audit list --since 24h"},
		{"What happened to a letter", "certpost audit list --letter 45"},
	}},
	"audit export": {nats: true, examples: []example{
		{"Keep a copy that can be verified elsewhere", "certpost audit export --signed > audit.jsonl"},
	}},
	"audit verify": {nats: true, examples: []example{
		{"Check the audit and the ledger", "certpost audit verify"},
		{"Check a copy, without NATS", "certpost audit verify --file audit.jsonl"},
	}},
	"audit accept": {nats: true, acts: true, examples: []example{
		{"Record what was found about a break", "certpost audit accept --record 1203 --reason 'restored from the backup of 12 March'"},
	}},
	"audit rotate": {nats: true, acts: true, examples: []example{
		{"Put a new key in force", "certpost audit rotate --reason 'yearly'"},
	}},
	"audit key": {examples: []example{
		{"Make a key, and store it in Vault", "certpost audit key | vault kv put secret/certpost/audit key=-"},
	}},
	"relays list": {nats: true, examples: []example{
		{"See which lanes deliver, and which do not", "certpost relays list"},
	}},
	"relays suspend": {nats: true, acts: true, examples: []example{
		{"Send nothing to a relay while it is repaired", "certpost relays suspend smtp-example-com-587 --for 2h --reason maintenance"},
	}},
	"relays resume": {nats: true, acts: true, examples: []example{
		{"Deliver again", "certpost relays resume smtp-example-com-587"},
	}},
	"alerts list": {nats: true, examples: []example{
		{"See what lasts", "certpost alerts list"},
	}},
	"alerts silence": {nats: true, acts: true, examples: []example{
		{"Silence a kind of alerts for a day", "certpost alerts silence dead_letters --for 1d --reason 'the relay is moved'"},
	}},
	"alerts unsilence": {nats: true, acts: true, examples: []example{
		{"End the silence", "certpost alerts unsilence dead_letters"},
	}},
	"alerts test": {acts: true, examples: []example{
		{"Send a test message", "certpost alerts test"},
	}},
	"deliveries list": {nats: true, examples: []example{
		{"What was sent today", "certpost deliveries list --state sent --since 24h"},
		{"What waits, with its next try and the reason", "certpost deliveries list --state waiting"},
	}},
	"deliveries show": {nats: true, examples: []example{
		{"See the deliveries of an event", "certpost deliveries show 01JQ8Z5V4T0000000000000000"},
		{"That to one target", "certpost deliveries show 01JQ8Z5V4T0000000000000000 ops"},
	}},
	"deliveries who": {nats: true, examples: []example{
		{"Who got the private key of a name", "certpost deliveries who --name www.example.com --key"},
	}},
	"deliveries resend": {nats: true, acts: true, examples: []example{
		{"Send once more what was lost at its recipient", "certpost deliveries resend --event EVENT --target mx1 --reason 'lost at the recipient'"},
		{"What a target that was added later should have", "certpost deliveries resend --since 24h --to-target partner --reason 'new partner' --dry-run"},
	}},
	"deliveries retry": {nats: true, acts: true, examples: []example{
		{"Try now what waits for a relay that is back", "certpost deliveries retry --lane smtp-example-com-587"},
		{"Everything that waits", "certpost deliveries retry --all"},
	}},
	"deliveries cancel": {nats: true, acts: true, examples: []example{
		{"Give up what waits for a relay that is gone", "certpost deliveries cancel --lane smtp-old-example-com-587 --reason 'the relay is switched off'"},
	}},
	"deliveries rollback": {nats: true, acts: true, examples: []example{
		{"Put the former files back", "certpost deliveries rollback 01JQ8Z5V4T0000000000000000 mx1-postfix --reason 'clients reject the new chain'"},
	}},
	"deliveries plan": {nats: true, examples: []example{
		{"See what a deployment would do", "certpost deliveries plan --target mx1-postfix --cert fullchain.pem"},
	}},
	"schema": {examples: []example{
		{"Let an editor check the configuration", "certpost schema config > certpost.schema.json"},
	}},
	"hash-password": {examples: []example{
		{"Type a password, get its hash", "certpost hash-password"},
	}},
	"nats-account": {examples: []example{
		{"Make the accounts of a NATS server", "certpost nats-account > accounts.conf"},
	}},
	"backup": {nats: true, acts: true, examples: []example{
		{"Copy everything into a new directory", "certpost backup /var/backups/certpost-2026-01-31"},
	}},
	"restore": {nats: true, acts: true, examples: []example{
		{"Put a backup into an empty NATS", "certpost restore /var/backups/certpost-2026-01-31"},
	}},
	"completion": {examples: []example{
		{"Complete commands in this bash", `eval "$(certpost completion bash)"`},
		{"In every fish", "certpost completion fish > ~/.config/fish/completions/certpost.fish"},
	}},
	"man": {examples: []example{
		{"Read the manual page", "certpost man | man -l -"},
	}},
	"help": {examples: []example{
		{"Read about a command", "certpost help dead-letters replay"},
	}},
	"version": {examples: []example{
		{"See which version this is", "certpost version"},
		{"List what it is built from", "certpost version --sbom"},
	}},
}

// firstExamples are those of the whole program.
var firstExamples = []example{
	{"See everything work, without any configuration", "certpost demo"},
	{"Write a configuration, check it, and run the service", "certpost init && certpost check --live && certpost run"},
	{"Publish a certificate", "certpost publish --cert fullchain.pem --target ops"},
	{"See what failed, and replay it", "certpost dead-letters list"},
}

// commandName is the name of a command without that of the program: dead-letters replay.
func commandName(n *kong.Node) string { return strings.TrimPrefix(n.FullPath(), "certpost ") }

// factsOf returns what the table knows of a command; of a group what is common to its commands.
func factsOf(n *kong.Node) (facts commandFacts) {
	switch {
	case n == nil:
		return facts
	case n.Leaf():
		return commandTable[commandName(n)]
	case n.Parent == nil:
		return commandFacts{nats: true, acts: true, examples: firstExamples}
	}
	for _, child := range n.Children {
		of := factsOf(child)
		facts.nats, facts.acts = facts.nats || of.nats, facts.acts || of.acts
		facts.examples = append(facts.examples, of.examples[:min(1, len(of.examples))]...)
	}
	return facts
}
