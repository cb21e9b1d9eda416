package verdict

import (
	"fmt"
	"testing"
	"time"
)

func TestSupersedes(t *testing.T) {
	t.Parallel()
	at := func(day int, kind, cn string, names ...string) *Certificate {
		return &Certificate{CommonName: cn, DNSNames: names, KeyType: kind, NotBefore: time.Date(2026, 3, day, 0, 0, 0, 0, time.UTC)}
	}
	var many []string
	for i := range maxCertificateNames {
		many = append(many, fmt.Sprintf("host-%d.example.com", i))
	}
	for name, c := range map[string]struct {
		newer, older *Certificate
		want         bool
	}{
		"the same names":          {at(2, "rsa", "a", "a", "b"), at(1, "rsa", "a", "b", "a"), true},
		"in another case":         {at(2, "rsa", "A", "A"), at(1, "rsa", "a", "a"), true},
		"more names":              {at(2, "rsa", "a", "a", "b", "c"), at(1, "rsa", "a", "a", "b"), true},
		"fewer names":             {at(2, "rsa", "a", "a"), at(1, "rsa", "a", "a", "b"), false},
		"no alternative names":    {at(2, "rsa", "a"), at(1, "rsa", "a"), true},
		"another kind of key":     {at(2, "rsa", "a", "a"), at(1, "ecdsa", "a", "a"), false},
		"at the same time":        {at(1, "rsa", "a", "a"), at(1, "rsa", "a", "a"), false},
		"earlier":                 {at(1, "rsa", "a", "a"), at(2, "rsa", "a", "a"), false},
		"not all names are known": {at(2, "rsa", "a", many...), at(1, "rsa", "a", many...), false},
	} {
		if got := c.newer.Supersedes(c.older); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
