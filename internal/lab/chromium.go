package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Chromium starts Debian's Chromium without a window and returns the address of
// its DevTools (a websocket). It has a profile of its own, knows no host but this
// one, and ends with the test, with all of its processes. The test is skipped, or
// fails with CI=true, where there is no Chromium.
func Chromium(t testing.TB) string {
	t.Helper()
	program := Need(t, "chromium")
	home := browserHome(t)
	profile := mkdir(t, home, "profile")
	cmd := exec.Command(program, chromiumFlags(profile)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "LANGUAGE=en_GB", "TZ=UTC",
		"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_CACHE_HOME=" + home, "XDG_RUNTIME_DIR=" + home, "TMPDIR=" + home,
		"FONTCONFIG_FILE=" + writeFile(t, filepath.Join(home, "fonts.conf"), fonts(home), 0o644),
		"DBUS_SESSION_BUS_ADDRESS=disabled:", "DBUS_SYSTEM_BUS_ADDRESS=disabled:",
	}
	p := startProcess(t, "chromium", filepath.Join(home, "log"), cmd)
	var address string
	p.await(t, "its DevTools", func() error {
		// It writes the port, then the path, when it listens.
		text, err := os.ReadFile(filepath.Join(profile, "DevToolsActivePort"))
		if err != nil {
			return err
		}
		port, path, whole := strings.Cut(strings.TrimSpace(string(text)), "\n")
		if !whole {
			return errors.New("it has not written its address yet")
		}
		address = "ws://127.0.0.1:" + port + path
		return answers("127.0.0.1:" + port)
	})
	return address
}

func chromiumFlags(profile string) []string {
	flags := []string{
		"--headless", "--remote-debugging-port=0", "--user-data-dir=" + profile,
		"--no-first-run", "--no-default-browser-check", "--disable-search-engine-choice-screen",
		// Nothing of its own may go out: neither updates nor reports.
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-domain-reliability",
		"--disable-client-side-phishing-detection", "--disable-breakpad", "--disable-crash-reporter", "--no-pings",
		"--metrics-recording-only", "--disable-extensions", "--disable-default-apps", "--password-store=basic",
		"--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider,AutofillServerCommunication,HttpsUpgrades",
		// A page that asks for another host gets an error, which its test notices.
		"--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
		// Containers have 64 MiB of shared memory and no graphics card.
		"--disable-dev-shm-usage", "--disable-gpu",
		// A tab that is not in front works as one that is: tests have several.
		"--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows", "--disable-renderer-backgrounding",
		"--hide-scrollbars", "--force-color-profile=srgb", "--font-render-hinting=none", "--lang=en-GB", "--mute-audio",
		"--window-size=1280,900", "about:blank",
	}
	if os.Geteuid() == 0 {
		// Chromium's sandbox gives processes to users that root cannot make them in a
		// container, so as root it refuses to start with it. The pages are our own.
		flags = append([]string{"--no-sandbox"}, flags...)
	}
	return flags
}

// fonts has the same faces on every machine where Debian's fonts-inter and
// fonts-dejavu-core are: system-ui is one of a desktop's, not the fallback that a
// server without any would show.
func fonts(home string) string {
	prefer := func(family, face string) string {
		return fmt.Sprintf(`<match target="pattern"><test name="family"><string>%s</string></test>`+
			`<edit name="family" mode="prepend" binding="strong"><string>%s</string></edit></match>`+"\n", family, face)
	}
	return `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
<dir>/usr/share/fonts</dir>
<cachedir>` + home + `/fontconfig</cachedir>
` + prefer("system-ui", "Inter") + prefer("sans-serif", "Inter") + prefer("sans", "Inter") +
		prefer("ui-monospace", "DejaVu Sans Mono") + prefer("monospace", "DejaVu Sans Mono") + `</fontconfig>
`
}

// browserHome is like serverDir, but its removal is patient: a browser's processes
// that were killed with it write for some moments more.
func browserHome(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := poll(func() error { return os.RemoveAll(dir) }); err != nil {
			t.Errorf("removing Chromium's directory: %v", err)
		}
	})
	return dir
}
