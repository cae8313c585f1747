{"format":1,"key_id":"key","signature":"abababababababababababababababababababababababababababababababababababababababababababababababababababababababababababababababab"}
