// containerd-unpack unpacks one layer as containerd does: read from standard input, however it is packed.
//
//	containerd-unpack overlay TARGET [PARENT...]   into a directory of its own, with overlay's marks of what is deleted;
//	                                               the directories of the layers below follow, topmost first
//	containerd-unpack onto TARGET                  onto the layers that are there already
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/log"
)

func main() {
	log.SetLevel("error")
	if err := unpack(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func unpack(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: containerd-unpack overlay|onto TARGET [PARENT...]")
	}
	var options []archive.ApplyOpt
	if args[0] == "overlay" {
		options = append(options, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
		if len(args) > 2 {
			options = append(options, archive.WithParents(args[2:]))
		}
	}
	stream, err := compression.DecompressStream(os.Stdin)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := archive.Apply(context.Background(), args[1], stream, options...); err != nil {
		return err
	}
	// As containerd does it, for the digest of what follows the archive's end.
	_, err = io.Copy(io.Discard, stream)
	return err
}
