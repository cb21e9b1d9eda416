package secrets

import (
	"net"
	"net/url"
	"os"
)

// Warnings returns what is risky in a valid configuration. Call it after Validate.
func (c Config) Warnings() []Problem {
	var found problems
	address, of := c.Address, ""
	for _, name := range []string{"VAULT_AGENT_ADDR", "VAULT_ADDR"} {
		if address == "" {
			address, of = os.Getenv(name), "is not set, and the environment's "+name+" "
		}
	}
	if u, err := url.Parse(address); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		found.add("address", of+"begins with http://: everybody on the network between can read Vault's token and the secrets; use https://")
	}
	return found
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
