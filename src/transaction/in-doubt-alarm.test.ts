import { expect, test } from 'vitest'
import { dueAlarms } from './in-doubt-alarm.ts'

const limits = { afterMs: 30_000, everyMs: 60_000 }
const young = { gid: 'young', ageMs: 29_999, needsPerson: false }
const old = { gid: 'old', ageMs: 30_000, needsPerson: false }
const stuck = { gid: 'stuck', ageMs: 1, needsPerson: true }

test('what is old, and what needs a person, is told of; once an interval', () => {
  const first = dueAlarms(new Map(), [young, old, stuck], 0, limits)
  expect([...first.due]).toEqual(['old', 'stuck'])
  const second = dueAlarms(first.told, [young, old, stuck], 59_999, limits)
  expect([...second.due]).toEqual([])
  const third = dueAlarms(second.told, [young, old, stuck], 60_000, limits)
  expect([...third.due]).toEqual(['old', 'stuck'])
})

test('a branch that is gone is forgotten', () => {
  const { told } = dueAlarms(new Map([['gone', 5]]), [old], 10, limits)
  expect([...told]).toEqual([['old', 10]])
})
