package legible

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// WrongPort returns what is wrong with the port of a URL, "" if nothing is: url.Parse takes any
// number of digits, and none after the colon.
func WrongPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return "ends with a colon, but has no port after it"
		}
		return ""
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Sprintf("has the port %s: want 1 to 65535", Clean(port, 20))
	}
	return ""
}

// ASCIIHost replaces the host of a URL by its ASCII form (A-labels), the one that DNS is asked for:
// letters of another script can imitate a known name. The error is for a host that has no such form.
func ASCIIHost(u *url.URL) error {
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	ascii, _ := Domain(host)
	for _, c := range []byte(ascii) {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-._", rune(c)) {
			return errors.New("has a host that is no valid name")
		}
	}
	port := u.Port()
	if u.Host = ascii; port != "" {
		u.Host += ":" + port
	}
	return nil
}
