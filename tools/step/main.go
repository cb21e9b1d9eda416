// Command step-dev is smallstep's step for integration tests: its commands `step ca ...`.
package main

import (
	"fmt"
	"os"

	_ "github.com/smallstep/certificates/cas/softcas"
	_ "github.com/smallstep/cli/command/ca"
	"github.com/urfave/cli"
	"go.step.sm/cli-utils/command"
)

func main() {
	app := cli.NewApp()
	app.Name = "step"
	app.Commands = command.Retrieve()
	if err := app.Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
