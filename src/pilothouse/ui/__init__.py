"""What people see: the command line and the console. They compute nothing: they ask and show."""
