// Command chart-check reads a Helm chart as `helm lint --strict` and `helm template` do, and its
// objects as strictly as an API server, without one:
//
//	chart-check DIR VALUES.yaml NAMESPACE
//
// It prints the objects. It ends with 1 and the reasons if the linter warns of anything, a template
// or the schema of the values refuses, or an object of Kubernetes itself has an unknown or repeated
// field. Objects of other groups (KEDA, the Prometheus Operator) are printed and not checked.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "chart-check:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("want: DIR VALUES.yaml NAMESPACE")
	}
	dir, namespace := args[0], args[2]
	file, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer file.Close()
	values, err := loader.LoadValues(file)
	if err != nil {
		return err
	}
	slog.SetLogLoggerLevel(slog.LevelWarn) // the loader tells of each symbolic link
	var found []error
	for _, m := range lint.RunAll(dir, values, namespace).Messages {
		if m.Severity >= support.WarningSev {
			found = append(found, m)
		}
	}
	chart, err := loader.Load(dir)
	if err != nil {
		return errors.Join(append(found, err)...)
	}
	release := common.ReleaseOptions{Name: "certpost", Namespace: namespace, Revision: 1, IsInstall: true}
	given, err := util.ToRenderValues(chart, values, release, common.DefaultCapabilities)
	if err != nil {
		return errors.Join(append(found, err)...)
	}
	files, err := engine.Engine{Strict: true}.Render(chart, given)
	if err != nil {
		return errors.Join(append(found, err)...)
	}
	strict := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if filepath.Ext(name) != ".yaml" {
			continue
		}
		for document := range strings.SplitSeq(files[name], "\n---\n") {
			if len(bytes.TrimSpace([]byte(document))) == 0 {
				continue
			}
			fmt.Printf("---\n%s\n", strings.TrimSpace(document))
			if _, _, err := strict.Decode([]byte(document), nil, nil); err != nil && !otherGroup(document) {
				found = append(found, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	return errors.Join(found...)
}

// otherGroup tells whether an object belongs to no group of Kubernetes itself.
func otherGroup(document string) bool {
	var object metav1.TypeMeta
	err := yaml.Unmarshal([]byte(document), &object)
	group, err2 := schema.ParseGroupVersion(object.APIVersion)
	return err == nil && err2 == nil && !scheme.Scheme.IsGroupRegistered(group.Group)
}
