import { expect, test } from 'vitest'
import { actions, actors, allCells, runningCells, steps } from './table.ts'

const counts = `${runningCells().length} of ${[...allCells()].length}`

test(`every step, actor and action has a cell: ${counts} run, the others tell why they have no meaning`, () => {
  const cells = [...allCells()]
  expect(cells).toHaveLength(steps.length * actors.length * actions.length)
  expect(new Set(cells.map(({ name }) => name)).size).toBe(cells.length)
  for (const { name, cell } of cells) {
    if (cell.kind === 'without meaning') expect(cell.why, name).not.toBe('')
    else expect(cell.mayTell.length, name).toBeGreaterThan(0)
  }
})

test('every actor, every action, and every step but the collection runs', () => {
  const running = runningCells()
  expect(new Set(running.map(({ actor }) => actor))).toEqual(new Set(actors))
  expect(new Set(running.map(({ action }) => action))).toEqual(new Set(actions))
  const idle = steps.filter((step) => !running.some((one) => one.step === step))
  expect(idle).toEqual(['global record collected'])
})

test('what is expected and what may be told do not contradict each other', () => {
  for (const { name, step, cell } of runningCells()) {
    if (cell.expected === 'aborted') expect(cell.mayTell, name).not.toContain('committed')
    if (cell.expected === 'committed') expect(cell.mayTell, name).not.toContain('failed')
    if (step.startsWith('resolver')) expect(cell.mayTell, name).toContain('nothing')
  }
})

test('death of the gateway is certain to abort before the commit is sent, and to keep what was acknowledged', () => {
  const deaths = runningCells().filter(({ actor, action }) => actor === 'gateway' && action === 'kill -9')
  const of = (step: string) => deaths.find((one) => one.step === step)?.cell.expected
  expect(of('global record inserted')).toBe('aborted')
  expect(of('global home commit sent')).toBe('either')
  expect(of('global reply')).toBe('committed')
  expect(of('local commit in WAL')).toBe('committed')
})

test('who only read is asked for nothing any more once it has voted, whatever becomes of it', () => {
  const voted = runningCells().filter(({ step }) => step === 'global reading confirmed')
  const there = voted.filter(({ actor }) => actor === 'primary of participant')
  expect(there.map(({ action }) => action)).toEqual(['kill -9', 'SIGSTOP', 'cut both ways', 'fail over'])
  for (const { cell, name } of there)
    expect(cell, name).toMatchObject({ expected: 'committed', mayTell: ['committed'] })
})
