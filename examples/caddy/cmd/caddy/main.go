// Command caddy is Caddy with its standard modules and certpost's, as `xcaddy build --with
// github.com/certpost/certpost/examples/caddy` makes it.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/certpost/certpost/examples/caddy"
)

func main() { caddycmd.Main() }
