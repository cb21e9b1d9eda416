package secrets

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// WrongPort returns what is wrong with the port of a URL in the configuration, "" if
// nothing is: url.Parse takes any number of digits, and none after the colon.
func WrongPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "ends with a colon, but has no port after it"
		}
		return ""
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Sprintf("has the port %s: want 1 to 65535", clean(port))
	}
	return ""
}

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
