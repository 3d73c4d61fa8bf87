"""What more passes over the forget set buy."""
