"""The gRPC contract, `ranking.proto`, and what protoc made of it: its files are not edited."""
