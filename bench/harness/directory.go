package harness

import (
	"fmt"
	"os"
)

// InDirectory calls use with a new directory below parent. The directory is removed when use
// succeeds; otherwise it is kept, and the error says that stores and logs are in it.
func InDirectory(parent, prefix string, use func(dir string) error) error {
	dir, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return err
	}
	if err := use(dir); err != nil {
		return fmt.Errorf("%w (stores and logs are in %s)", err, dir)
	}
	return os.RemoveAll(dir)
}
