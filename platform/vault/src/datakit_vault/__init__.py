"""A small, typed client of Delinea Secret Server and Delinea Platform."""
