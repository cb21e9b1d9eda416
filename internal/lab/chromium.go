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

// Chromium starts Debian's Chromium without a window and returns the address of its
// DevTools (a websocket). It has its own profile, can reach only this host, and ends with
// the test, with all of its processes. The test is skipped, or fails with CI=true, if
// there is no Chromium.
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
			return errors.New("Chromium has not written its address yet")
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
		// Chromium itself must not connect out: no updates, no reports.
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-domain-reliability",
		"--disable-client-side-phishing-detection", "--disable-breakpad", "--disable-crash-reporter", "--no-pings",
		"--metrics-recording-only", "--disable-extensions", "--disable-default-apps", "--password-store=basic",
		"--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider,AutofillServerCommunication,HttpsUpgrades",
		// A request of a page to another host fails, which the test detects.
		"--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
		// Containers have 64 MiB of shared memory and no graphics card.
		"--disable-dev-shm-usage", "--disable-gpu",
		// A tab in the background works like one in the foreground: tests have several.
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

// fonts selects the same fonts on every machine that has Debian's fonts-inter and
// fonts-dejavu-core: system-ui is a desktop's font, not the fallback of a server without
// fonts.
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

// browserHome is like serverDir, but retries the removal: for some moments after the
// browser was killed its processes still write there.
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
