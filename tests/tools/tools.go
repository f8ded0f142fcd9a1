//go:build tools

// Package tools names the programs that `tests/tools/build` makes, so that go.mod and go.sum pin them and all they
// need.
package tools

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/cri-tools/cmd/critest"
)
