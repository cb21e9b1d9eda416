package devrelay

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Format is how a folder stores mails. Both formats have the bytes as they were received.
type Format string

// The formats.
const (
	EML     Format = "eml"     // DIR/<name>.eml
	Maildir Format = "maildir" // DIR/new/<name>, written in DIR/tmp; DIR/cur is the reader's
)

// Folder is a directory in which mails are stored, each in a file of its own, readable only
// by the user of this process. The zero value stores nothing.
type Folder struct {
	Dir    string
	Format Format // EML when empty
}

// open makes the directories.
func (f Folder) open() error {
	if f.Dir == "" {
		return nil
	}
	dirs := []string{f.Dir}
	switch f.Format {
	case EML, "":
	case Maildir:
		for _, name := range []string{"tmp", "new", "cur"} {
			dirs = append(dirs, filepath.Join(f.Dir, name))
		}
	default:
		return fmt.Errorf("the demo relay stores mails as eml or maildir, not as %q", f.Format)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("the folder of the demo relay: %w", err)
		}
	}
	return nil
}

// store writes a mail to the disk. A reader of the folder sees the whole mail or nothing: it
// gets its name after its content. Names have no colon and sort by time.
func (f Folder) store(mail []byte) (err error) {
	if f.Dir == "" {
		return nil
	}
	name := fmt.Sprintf("%d.%s.certpost", time.Now().UnixMicro(), strings.ToLower(rand.Text()[:10]))
	temporary, final := filepath.Join(f.Dir, "."+name), filepath.Join(f.Dir, name+".eml")
	if f.Format == Maildir {
		temporary, final = filepath.Join(f.Dir, "tmp", name), filepath.Join(f.Dir, "new", name)
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temporary)
		}
	}()
	_, err = file.Write(mail)
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Rename(temporary, final)
}
