"""The command line: one file per command.

    main        the group of all commands, the exit codes, the console script
    options     options that several commands share
    running     runs a command to its end: Ctrl-C, deadlines, exit status
    new, join   be a peer of a run            top         follow a run
    demo        several peers, here           rehearse    many simulated peers
    chaos       kill and freeze a peer

Everything heavy is imported inside the functions that need it, so that ``--help`` answers at once.
"""
