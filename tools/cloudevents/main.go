// Command cloudevents-publish publishes CloudEvents to JetStream with the CloudEvents SDK for Go, as
// a program that uses the SDK does. It reads events from standard input, in structured JSON, one per
// line, and is for tests.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	jetstream "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cloudevents-publish:", err)
		os.Exit(1)
	}
}

func run() error {
	url := flag.String("url", "", "address of the NATS server")
	stream := flag.String("stream", "", "stream that takes the subject")
	subject := flag.String("subject", "", "subject to publish to")
	structured := flag.Bool("structured", false, "structured mode, not binary mode")
	flag.Parse()

	sender, err := jetstream.NewSender(*url, *stream, *subject, nil, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer sender.Close(ctx)
	client, err := cloudevents.NewClient(sender)
	if err != nil {
		return err
	}
	if *structured {
		ctx = binding.WithForceStructured(ctx)
	} else {
		ctx = binding.WithForceBinary(ctx)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		event := cloudevents.NewEvent()
		if err := event.UnmarshalJSON(lines.Bytes()); err != nil {
			return fmt.Errorf("the event: %w", err)
		}
		if result := client.Send(ctx, event); cloudevents.IsUndelivered(result) {
			return result
		}
	}
	return lines.Err()
}
