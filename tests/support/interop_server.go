// The service of gRPC's interoperability cases, from grpc-go, on an address of our choosing: its own program listens on every
// address of the host. Prints the address it listens on, and ends on SIGTERM.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	service "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address and port")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	service.RegisterTestServiceServer(server, interop.NewTestServer())
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, os.Interrupt)
	go func() {
		<-ended
		server.Stop()
	}()
	fmt.Println(listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
