package broker

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// The accounts of the embedded server. Clients of one account cannot see the messages of
// another one, except what it exports: publishers have an account of their own, so that their
// inboxes hold the answers to them and no others.
const (
	mainAccount      = "CERTPOST" // in the configuration text; see mainAccountName
	publisherAccount = "PUBLISHERS"

	// mainAccountName is where the streams are: NATS's name for the account of a server
	// without accounts. Stores that were made before there were accounts continue to be used,
	// also by the version that made them. Configuration texts cannot name it.
	mainAccountName = "$G"
)

// accountsText is the part of the server's configuration with its accounts and users.
func (c Config) accountsText(s seeds) string {
	subjects := []string{EventSubject, EventSubject + ".>"}
	var exports, imports []string
	for _, subject := range subjects {
		exports = append(exports, fmt.Sprintf("{service: %q, accounts: [%s]}", subject, publisherAccount))
		imports = append(imports, fmt.Sprintf("{service: {account: %s, subject: %q}}", mainAccount, subject))
	}
	inboxes := []string{nats.InboxPrefix + ">"}
	if c.InboxPrefix != "" {
		inboxes = append(inboxes, c.InboxPrefix+".>")
	}
	return fmt.Sprintf(`accounts {
  %s: {jetstream: enabled, exports: [%s], users: [{nkey: %s}]}
  %s: {imports: [%s], users: [{nkey: %s, permissions: {publish: {allow: %s}, subscribe: {allow: %s}}}]}
}
`, mainAccount, strings.Join(exports, ", "), s.public(Administrator),
		publisherAccount, strings.Join(imports, ", "), s.public(Publisher), quoted(subjects), quoted(inboxes))
}

// quoted is a list in the server's configuration language.
func quoted(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, strconv.Quote(s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// finishUsers completes what the configuration text cannot say: the main account's real name,
// a user with a password, a key of the operator's own, and whether clients need none of them.
func (c Config) finishUsers(opts *server.Options, s seeds) error {
	for _, account := range opts.Accounts {
		if account.Name == mainAccount {
			account.Name = mainAccountName
		}
	}
	if c.User != "" {
		u := &server.User{Username: c.User}
		if c.Password != nil {
			password, err := c.Password()
			if err != nil {
				return fmt.Errorf("nats.password: %w", err)
			}
			u.Password = string(password)
			clear(password)
		}
		opts.Users = append(opts.Users, u)
	}
	if c.NKeyFile != "" {
		key, err := readSeed(c.NKeyFile)
		if err != nil {
			return fmt.Errorf("nats.nkey_file: %w", err)
		}
		// It may be a copy of the publishers' seed: that remains one of a publisher.
		if public := (seeds{Administrator: key}).public(Administrator); public != s.public(Administrator) && public != s.public(Publisher) {
			opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: public})
		}
	}
	if c.Anonymous {
		opts.NoAuthUser = s.public(Administrator)
	}
	return nil
}
