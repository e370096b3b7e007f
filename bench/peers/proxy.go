// SPDX-License-Identifier: Apache-2.0

// A TCP proxy as one writes it in Go: io.Copy in both directions, which splices.
// Usage: proxy PORT BACKEND_HOST BACKEND_PORT
package main

import (
	"io"
	"log"
	"net"
	"os"
)

// Moves one direction, and passes its end on.
func relay(from, to *net.TCPConn) error {
	_, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	return err
}

func serve(client *net.TCPConn, address string) {
	defer client.Close()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	backend := connection.(*net.TCPConn)
	defer backend.Close()
	requests := make(chan struct{})
	go func() {
		if relay(client, backend) != nil {
			backend.Close() // ends the other direction
		}
		close(requests)
	}()
	if relay(backend, client) != nil {
		client.Close()
	}
	<-requests
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(client.(*net.TCPConn), net.JoinHostPort(os.Args[2], os.Args[3]))
	}
}
