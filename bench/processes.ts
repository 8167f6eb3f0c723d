import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'

/** Programs of this folder in processes of their own, which do what they are told and report it, one order at a time. */

export async function withProcesses<T>(
  program: string,
  tasks: readonly unknown[],
  use: (processes: readonly ChildProcess[]) => Promise<T>,
): Promise<T> {
  const processes = tasks.map((task) => fork(new URL(program, import.meta.url), [JSON.stringify(task)]))
  try {
    await Promise.all(processes.map((one) => once(one, 'message')))
    return await use(processes)
  } finally {
    await Promise.all(
      processes.map(async (one) => {
        if (one.exitCode !== null) return
        const gone = once(one, 'exit')
        one.disconnect()
        await gone
      }),
    )
  }
}

export async function order<Report>(child: ChildProcess | undefined, what: object): Promise<Report> {
  if (child === undefined) throw new Error('no such process')
  const given = new AbortController()
  const answer = once(child, 'message', { signal: given.signal })
  const gone = once(child, 'exit', { signal: given.signal }).then(() => {
    throw new Error('a process ended before it reported')
  })
  child.send(what)
  try {
    const [report] = (await Promise.race([answer, gone])) as [Report]
    return report
  } finally {
    given.abort()
    await Promise.allSettled([answer, gone])
  }
}

/** The other side: obeys until the parent lets go. What fails ends the process. */
export function obeyParent<Order>(obey: (order: Order) => Promise<unknown>, close: () => Promise<void>): void {
  process.on('message', (given: Order) => {
    obey(given).then(
      (report) => process.send?.(report ?? {}),
      (error: unknown) => {
        process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
        process.exit(1)
      },
    )
  })
  process.once('disconnect', () => void close().finally(() => process.exit(0)))
  process.send?.('ready')
}
