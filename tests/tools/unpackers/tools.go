//go:build tools

// Package unpackers names the programs that `build` makes, so that go.mod and go.sum pin them and all they need.
package unpackers

import (
	_ "github.com/opencontainers/umoci/cmd/umoci"
)
